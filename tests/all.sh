#!/usr/bin/env bash
# Everything that has to hold: formatting, lints, documentation, tests, real clients, conformance.
#
#   bash tests/all.sh              all of it; installs what is missing
#   bash tests/all.sh rust clients only these groups: lint, rust, clients, conformance, browser
#
# Stops at the first step that fails. The last line is `N passed, N failed[, N skipped]`, in steps.
set -uo pipefail
cd "$(dirname "$0")/.."

groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(lint rust clients conformance browser)
wants() { local group; for group in "${groups[@]}"; do [ "$group" = "$1" ] && return 0; done; return 1; }

passed=0
failed=0
skipped=0
report=()

finish() {
  echo
  echo "== steps"
  printf '%s\n' "${report[@]}"
  local line="$passed passed, $failed failed"
  [ "$skipped" -eq 0 ] || line="$line, $skipped skipped"
  echo "$line"
  [ "$failed" -eq 0 ]
  exit
}

# step NAME COMMAND...: runs it, times it, stops everything if it fails
step() {
  local name="$1" began=$SECONDS
  shift
  echo
  echo "== $name"
  if "$@"; then
    passed=$((passed + 1))
    report+=("ok      $name ($((SECONDS - began)) s)")
  else
    failed=$((failed + 1))
    report+=("FAILED  $name ($((SECONDS - began)) s)")
    finish
  fi
}

skip() {
  echo
  echo "== $1: skipped, $2"
  skipped=$((skipped + 1))
  report+=("skipped $1: $2")
}

# ---- what is needed

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }

system_packages() {
  local missing=()
  command -v cc >/dev/null || missing+=(build-essential)
  command -v curl >/dev/null || missing+=(curl)
  command -v git >/dev/null || missing+=(git)
  if wants clients || wants conformance || wants browser; then
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
  fi
  if wants browser; then
    command -v chromium >/dev/null || missing+=(chromium)
    command -v openssl >/dev/null || missing+=(openssl)
    # a terminal for passphrases that are typed
    command -v script >/dev/null || missing+=(bsdutils)
  fi
  if wants clients || wants conformance; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  fi
  if [ ${#missing[@]} -eq 0 ]; then
    echo "nothing is missing"
    return 0
  fi
  echo "installing ${missing[*]}"
  as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Installs into tests/.peers, once for each version of the lists in tests/peers.
npm_peers() {
  local stamp=tests/.peers/.npm-installed
  mkdir -p tests/.peers
  if cmp -s tests/peers/package-lock.json "$stamp"; then
    echo "installed already"
    return 0
  fi
  cp tests/peers/package.json tests/peers/package-lock.json tests/.peers/
  (cd tests/.peers && npm ci --no-audit --no-fund --loglevel=error) && cp tests/peers/package-lock.json "$stamp"
}

python_peers() {
  local name
  for name in new old servers api; do
    local venv="tests/.peers/py-$name" list="tests/peers/python-$name.txt"
    if cmp -s "$list" "$venv/.installed"; then
      echo "py-$name: installed already"
      continue
    fi
    # a virtual environment knows its own path, so it is made where it stays
    rm -rf "$venv"
    python3 -m venv "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check -r "$list" && cp "$list" "$venv/.installed" || return 1
    echo "py-$name: installed"
  done
}

# ---- steps

tests() {
  if command -v cargo-nextest >/dev/null; then
    # on a machine that is short of time a test may need a second try: it is then named as FLAKY
    cargo nextest run --locked --all-targets --no-fail-fast --retries 2
  else
    cargo test --locked --all-targets --no-fail-fast
  fi
}

deny() { cargo deny --offline check licenses bans sources; }

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items; }

clients() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/clients/run.mjs; }

holds() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/clients/holds.mjs; }

single_sign_on() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/clients/sso.mjs; }

upstream_auth() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/clients/upstream-auth.mjs; }

own_oauth() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/clients/oauth.mjs; }

approvers_api() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" tests/.peers/py-api/bin/python tests/clients/api.py; }

conformance() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/conformance/run.mjs; }

authorization() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/conformance/authorization.mjs; }

tasks() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/conformance/tasks.mjs; }

browser() { COUNTERSIGN_BIN="$PWD/target/debug/countersign" node tests/browser/run.mjs; }

step "system packages" system_packages

if wants lint; then
  step "cargo fmt" cargo fmt --check
  step "cargo clippy" cargo clippy --locked --all-targets -- -D warnings
  step "cargo doc" documentation
  if command -v cargo-deny >/dev/null; then
    step "cargo deny (licences, bans, sources)" deny
    skip "cargo deny (advisories)" "it fetches its database; run \`cargo deny check advisories\` where the network allows it"
  else
    skip "cargo deny" "cargo-deny is not installed (\`cargo install cargo-deny --locked\`); the lock file's budget is a test"
  fi
fi

if wants rust; then
  step "cargo build" cargo build --locked --bins
  step "cargo test" tests
  step "cargo test --doc" cargo test --locked --doc
fi

if wants clients || wants conformance || wants browser; then
  step "npm packages" npm_peers
fi

if wants clients; then
  step "python packages" python_peers
  step "cargo build, for the clients" cargo build --locked --bins
  step "real clients" clients
  step "real clients, meeting holds" holds
  step "approvers' API, by its description" approvers_api
  step "single sign-on, with a real provider" single_sign_on
  step "credentials for tool servers, from a real authorization server" upstream_auth
  step "real clients, with OAuth flows of their own" own_oauth
fi

if wants conformance; then
  step "cargo build, for conformance" cargo build --locked --bins
  step "conformance suite" conformance
  step "conformance suite, tasks of held calls" tasks
  step "conformance suite, authorization" authorization
fi

if wants browser; then
  step "cargo build, for the browser" cargo build --locked --bins
  step "the console in Chromium" browser
fi

finish
