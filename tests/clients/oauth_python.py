"""The Python client, 2.x or 1.x (whichever this interpreter has), does its own OAuth flow.

Everything after the first 401 is done by the client's own code, but for what a host has to add (where tokens are kept, and
the person at the browser). Started by oauth.mjs, which says in COUNTERSIGN_OAUTH where everything is.
"""

import asyncio
import base64
import contextlib
import importlib.metadata
import json
import logging
import os
import re
import sys
import traceback
import urllib.parse
import warnings

from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata

NEW = not importlib.metadata.version("mcp").startswith("1.")
NAME = "python 2" if NEW else "python 1"
SCENE = json.loads(os.environ["COUNTERSIGN_OAUTH"])

if NEW:
    import httpx2 as httpx
    from mcp import Client
    from mcp.shared.auth import AuthorizationCodeResult
else:
    import httpx

warnings.filterwarnings("ignore", category=DeprecationWarning)
# what goes wrong is told by the check
logging.disable(logging.ERROR)


def claims_of(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


async def control(what):
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{SCENE['control']}/{what}", timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.text


class Kept:
    """Where a host keeps what its client got."""

    def __init__(self):
        self.tokens = self.client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client

    def claims(self):
        return claims_of(self.tokens.access_token)


class Person:
    """Who sits at the browser, and how often they were asked."""

    def __init__(self, who="maria"):
        self.who, self.asked, self.back = who, 0, {}

    async def redirected(self, to):
        self.asked += 1
        address = await control("person?" + urllib.parse.urlencode({"to": to, "who": self.who}))
        self.back = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))

    async def came_back(self):
        if NEW:
            return AuthorizationCodeResult(code=self.back["code"], state=self.back["state"], iss=self.back.get("iss"))
        return self.back["code"], self.back["state"]


def by_code(kept, person, document=None):
    metadata = OAuthClientMetadata(
        client_name="plays",
        redirect_uris=[SCENE["callback"]],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        token_endpoint_auth_method="none",
    )
    more = {"client_metadata_url": document} if document else {}
    return OAuthClientProvider(
        SCENE["url"], metadata, kept, redirect_handler=person.redirected, callback_handler=person.came_back, **more
    )


def by_secret(kept):
    secret = SCENE["secrets"]["robot"]
    return ClientCredentialsOAuthProvider(SCENE["url"], kept, "robot", secret, issuer=SCENE["issuer"])


def by_key(kept, url, client, issuer):
    signed = SignedJWTParameters(issuer=client, subject=client, signing_key=SCENE["signer"]["pem"], signing_algorithm="ES256")
    assertion = signed.create_assertion_provider()

    async def for_issuer(audience):
        # 1.x writes an issuer that is an origin with a slash at its end, which oidc-provider does not take for itself
        return await assertion(issuer)

    return PrivateKeyJWTOAuthProvider(url, kept, client, assertion if NEW else for_issuer, issuer=issuer)


class Connected:
    """A client that is connected by that way of signing in, or with that token."""

    def __init__(self, auth=None, token=None, url=None):
        self.auth, self.url = auth, url or SCENE["url"]
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        try:
            http = httpx.AsyncClient(auth=self.auth, headers=self.headers, timeout=httpx.Timeout(30, read=60))
            await self.stack.enter_async_context(http)
            transport = streamable_http_client(self.url, http_client=http)
            if NEW:
                self.client = await self.stack.enter_async_context(Client(transport, mode="2026-07-28"))
            else:
                streams = await self.stack.enter_async_context(transport)
                self.client = await self.stack.enter_async_context(ClientSession(streams[0], streams[1]))
                await self.client.initialize()
        except BaseException:
            await self.stack.aclose()
            raise
        return self

    async def __aexit__(self, *problem):
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await self.stack.aclose()

    async def tools(self):
        return [tool.name for tool in (await self.client.list_tools()).tools]

    async def call(self, tool, text):
        result = await self.client.call_tool(tool, {"text": f"{NAME}: {text}"})
        told = json.loads(result.model_dump_json(by_alias=True, exclude_none=True))
        assert not told.get("isError"), told
        assert told["content"][0]["text"] == "noted", told


async def used(auth, kept, text, url=None):
    """Lists and calls; gives the claims of the token that it was done with."""
    async with Connected(auth, url=url) as client:
        assert "desk__free" in await client.tools()
        await client.call("desk__free", text)
    return kept.claims()


async def registered_dynamically():
    """authorization code with PKCE, registered dynamically"""
    kept, person = Kept(), Person()
    claims = await used(by_code(kept, person), kept, "registered")
    assert (claims["sub"], claims["aud"], claims["scope"], person.asked) == ("maria", SCENE["url"], "mcp", 1), claims
    assert re.match(r"dynamic-\d+$", claims["client_id"]), claims


async def by_its_document():
    """authorization code with PKCE, with a client metadata document"""
    kept, person = Kept(), Person()
    claims = await used(by_code(kept, person, SCENE["document"]), kept, "document")
    assert (claims["sub"], claims["client_id"], claims["aud"]) == ("maria", SCENE["document"], SCENE["url"]), claims


async def with_a_secret():
    """client credentials by secret"""
    kept = Kept()
    claims = await used(by_secret(kept), kept, "secret")
    assert (claims["client_id"], claims["aud"], claims["scope"]) == ("robot", SCENE["url"], "mcp"), claims


async def with_a_key():
    """client credentials by key (private_key_jwt)"""
    kept = Kept()
    claims = await used(by_key(kept, SCENE["url"], "signer", SCENE["issuer"]), kept, "key")
    assert (claims["client_id"], claims["aud"]) == ("signer", SCENE["url"]), claims


async def machine_steps_up():
    """step-up: client credentials ask for the scope that a tool needs, and come back"""
    kept = Kept()
    async with Connected(by_secret(kept)) as client:
        await client.call("desk__free", "before")
        assert kept.claims()["scope"] == "mcp", kept.claims()
        await client.call("desk__note", "stepped up")
        assert "mcp:pay" in kept.claims()["scope"].split(), kept.claims()
        await client.call("desk__free", "after")


async def person_steps_up():
    """step-up: a person agrees to the scope that a tool needs, and the call is made"""
    kept, person = Kept(), Person("olga")
    # who registers dynamically registers the scopes of the first challenge, and may ask for no others at that server
    async with Connected(by_code(kept, person, SCENE["document"])) as client:
        await client.call("desk__free", "before")
        await client.call("desk__note", "stepped up")
        assert sorted(kept.claims()["scope"].split()) == ["mcp", "mcp:pay"], kept.claims()
        assert (kept.claims()["sub"], person.asked) == ("olga", 2)
        await client.call("desk__free", "after")


async def revoked_in_the_middle():
    """a token that is revoked here is replaced by another one, in the middle of a session"""
    kept, person = Kept(), Person()
    async with Connected(by_code(kept, person)) as client:
        await client.call("desk__free", "before")
        first = kept.claims()["jti"]
        await control("revoke?" + urllib.parse.urlencode({"client": kept.claims()["client_id"], "token": first}))
        await client.call("desk__free", "after")
        assert kept.claims()["jti"] != first
        # it refreshes what has expired, and asks anew when it is refused
        assert person.asked == 2


async def by_our_own_endpoint():
    """client credentials by key at Countersign's own token endpoint"""
    own, kept = SCENE["own"], Kept()
    claims = await used(by_key(kept, own["url"], "worker", own["issuer"]), kept, "own", url=own["url"])
    assert claims["aud"] == own["url"], claims
    async with httpx.AsyncClient() as http:
        metadata = (await http.get(f"{own['issuer']}/.well-known/oauth-authorization-server")).json()
        trade = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": kept.tokens.access_token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "resource": own["url"],
            "tools": "desk__free",
            "task": NAME.replace(" ", "-"),
        }
        answer = await http.post(metadata["token_endpoint"], data=trade)
    assert answer.status_code == 200, answer.text
    async with Connected(token=answer.json()["access_token"], url=own["url"]) as child:
        assert await child.tools() == ["desk__free"]
        await child.call("desk__free", "child")


CHECKS = [
    registered_dynamically,
    by_its_document,
    with_a_secret,
    with_a_key,
    machine_steps_up,
    person_steps_up,
    revoked_in_the_middle,
    by_our_own_endpoint,
]


async def main():
    only, failed = os.environ.get("COUNTERSIGN_ONLY"), 0
    for check in CHECKS:
        if only and only not in check.__doc__:
            continue
        try:
            await asyncio.wait_for(check(), 60)
            print(f"ok - {NAME}: {check.__doc__}", flush=True)
        except BaseException as problem:  # a broken connection arrives in groups of many kinds
            if isinstance(problem, (KeyboardInterrupt, SystemExit)):
                raise
            failed += 1
            print(f"not ok - {NAME}: {check.__doc__}", flush=True)
            for told in "".join(traceback.format_exception(problem)).splitlines()[-14:]:
                print(f"  # {told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
