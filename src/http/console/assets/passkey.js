// Passkeys: asks the authenticator, puts what it says into the form that the button stands in, and sends that form. The
// buttons are shown where passkeys work; elsewhere the page says where they do.
const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const known = (list) => list.map(({ type, id }) => ({ type, id: bytes(id) }));

/** What has to be told where the browser or the authenticator said no. */
const WHY = {
  NotAllowedError: "nothing was signed: it was broken off, took too long, or the device did not recognise you",
  InvalidStateError: "this device has a passkey of yours already; use that one, or another device",
  SecurityError: "passkeys do not work at this address",
  NotSupportedError: "this device has no kind of key that is taken here",
};

class Refused extends Error {
  constructor(code, why) {
    super(why);
    this.code = code;
  }
}

/** What to ask: what the page came with, or what the server says now. */
async function question(button) {
  const { publicKey, ask, from } = button.dataset;
  if (publicKey !== undefined) return JSON.parse(publicKey);
  const body = from === undefined ? {} : { [from]: document.getElementById(from).value };
  const headers = { "content-type": "application/json" };
  const answer = await fetch(ask, { method: "POST", headers, body: JSON.stringify(body) });
  const told = await answer.json();
  if (!answer.ok) throw new Refused(told.code, told.detail);
  return told.publicKey;
}

async function make(asked) {
  const publicKey = {
    ...asked,
    challenge: bytes(asked.challenge),
    user: { ...asked.user, id: bytes(asked.user.id) },
    excludeCredentials: known(asked.excludeCredentials),
  };
  const { response } = await navigator.credentials.create({ publicKey });
  return { client_data: text(response.clientDataJSON), attestation: text(response.attestationObject) };
}

async function sign(asked) {
  const publicKey = { ...asked, challenge: bytes(asked.challenge), allowCredentials: known(asked.allowCredentials) };
  const { rawId, response } = await navigator.credentials.get({ publicKey });
  const fields = {
    id: text(rawId),
    client_data: text(response.clientDataJSON),
    authenticator_data: text(response.authenticatorData),
    signature: text(response.signature),
  };
  if (response.userHandle?.byteLength) fields.user = text(response.userHandle);
  return fields;
}

function tell(form, code, why) {
  const told = form.querySelector("[data-told]");
  told.dataset.problem = code;
  told.textContent = why;
  told.hidden = false;
}

function put(form, name, value) {
  const field = document.createElement("input");
  field.type = "hidden";
  field.name = name;
  field.value = value;
  form.append(field);
}

async function use(form, button) {
  const { passkey, from } = button.dataset;
  const needed = [...form.querySelectorAll("[data-needed]")];
  if (from !== undefined) needed.push(document.getElementById(from));
  if (!needed.every((field) => field.reportValidity())) return;
  button.disabled = true;
  try {
    const asked = await question(button);
    const fields = passkey === "make" ? await make(asked) : await sign(asked);
    if (from !== undefined) fields[from] = document.getElementById(from).value;
    for (const field of form.querySelectorAll("[data-instead]")) field.disabled = true;
    for (const [name, value] of Object.entries(fields)) put(form, name, value);
    form.submit();
  } catch (problem) {
    button.disabled = false;
    tell(form, problem.code ?? "passkey_not_used", WHY[problem.name] ?? problem.message);
  }
}

for (const form of document.querySelectorAll("form[data-rp]")) {
  const { rp } = form.dataset;
  const here = location.hostname === rp || location.hostname.endsWith(`.${rp}`);
  for (const button of form.querySelectorAll("button[data-passkey]")) {
    button.hidden = !here || window.PublicKeyCredential === undefined;
    button.addEventListener("click", () => use(form, button));
  }
  for (const note of form.querySelectorAll("[data-elsewhere]")) note.hidden = here;
}
