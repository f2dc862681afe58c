"""The NPC world as a web service: the program that `perfkit demo` looks at.

An ordinary asyncio service of the standard library alone, for CPython 3.8 and later.  Fifty people live in `world.py`;
players talk to them over HTTP/1.1:

    POST /npc/{id}/interact   {"player_id": "p1", "text": "any news?"}   a player talks to one of them
    GET  /npc/{id}            how that one feels, where it stands, what it remembers
    GET  /world               everybody, and the map
    GET  /environment         the weather
    POST /chat                {"player_id": "p1", "message": "go to the market"}   a free-form command
    GET  /health

It listens on a free port of 127.0.0.1, says so in one line on stdout (`READY {"port": ...}`) and ends when its stdin
is closed, so that it cannot outlive whoever started it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import threading
import time
import traceback

from world import (
    COMMANDS,
    MAP_WIDTH,
    PLACES,
    World,
    choose_dialogue_line,
    encode_json,
    find_path,
    name_mood,
    search_chat_log,
    spread_gossip,
    tokenize_chat,
    weigh_sentiment,
)

HEADER_LIMIT_BYTES = 16 * 1024
BODY_LIMIT_BYTES = 64 * 1024
TEXT_LIMIT = 2000
TOKEN_ROUNDS = 800


# --- The service ------------------------------------------------------------------------------------------------------


class HttpError(Exception):
    """An answer other than 200; `close` when the connection can no longer be trusted."""

    def __init__(self, status, message, close=False):
        super().__init__(message)
        self.status, self.message, self.close = status, message, close


REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Payload Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
}


def decode_json(body):
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise HttpError(400, "the body is not JSON") from None
    if not isinstance(document, dict):
        raise HttpError(400, "the body is not a JSON object")
    return document


def text_field(document, name, default=None):
    text = document.get(name, default)
    if not isinstance(text, str) or not text.strip() or len(text) > TEXT_LIMIT:
        raise HttpError(400, "'{}' must be a text of at most {} characters".format(name, TEXT_LIMIT))
    try:
        text.encode()
    except UnicodeEncodeError:  # A lone surrogate can be written in JSON, but is no text.
        raise HttpError(400, "'{}' is not Unicode".format(name)) from None
    return text


def derive_player_token(player):
    """The token under which a player's talks are kept; stretched, so that it tells nobody the player's id."""
    return hashlib.pbkdf2_hmac("sha256", player.encode(), b"npc-world", TOKEN_ROUNDS, 16).hex()


async def ask_language_model(prompt):
    """Stands in for the language model: an answer takes 20 to 60 ms, in which this process has nothing to do."""
    digest = hashlib.sha256(prompt.encode()).digest()
    await asyncio.sleep(0.020 + 0.040 * digest[0] / 255)
    return "{:x}".format(int.from_bytes(digest[:4], "big"))


class Service:
    """The endpoints."""

    def __init__(self, world):
        self.world = world
        self.started = time.monotonic()
        self.requests = 0

    async def answer(self, method, path, body):
        self.requests += 1
        parts = path.split("?", 1)[0].strip("/").split("/")
        if len(parts) == 3 and parts[0] == "npc" and parts[2] == "interact":
            require_method("POST", method)
            return await self.interact(self.npc(parts[1]), decode_json(body))
        if len(parts) == 2 and parts[0] == "npc":
            require_method("GET", method)
            return self.npc_state(self.npc(parts[1]))
        if parts == ["chat"]:
            require_method("POST", method)
            return await self.chat(decode_json(body))
        if parts == ["world"]:
            require_method("GET", method)
            return self.world_state()
        if parts == ["environment"]:
            require_method("GET", method)
            return self.environment_state()
        if parts == ["health"]:
            require_method("GET", method)
            uptime_s = round(time.monotonic() - self.started, 3)
            return {"status": "ok", "uptime_s": uptime_s, "requests": self.requests}
        raise HttpError(404, "no such resource")

    def npc(self, text):
        if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= len(self.world.people):
            raise HttpError(404, "no such NPC")
        return self.world.people[int(text) - 1]

    async def interact(self, npc, document):
        """A player says something: recall, choose what to say, feel, walk towards them, and let the model phrase it."""
        world = self.world
        player, text = text_field(document, "player_id", "player"), text_field(document, "text")
        token = derive_player_token(player)
        tokens = tokenize_chat(text)[:40]
        memories = world.memory.recall(npc.id, tokens[:8])
        line = choose_dialogue_line(world.lines, tokens, npc)
        sentiment = weigh_sentiment(tokens)
        spread_gossip(npc, sentiment, world.people)
        npc.path = find_path(world.terrain, npc.tile, world.player_tile(player))
        voice = await ask_language_model("\n".join([npc.name, text, line] + memories))
        world.memory.remember(npc.id, player, text, abs(sentiment) + len(tokens) / 100)
        npc.talks += 1
        return {
            "npc_id": npc.id,
            "name": npc.name,
            "token": token,
            "reply": line,
            "voice": voice,
            "mood": name_mood(npc.mood),
            "memories": len(memories),
        }

    def npc_state(self, npc):
        state = npc.state()
        state["remembers"] = self.world.memory.count(npc.id)
        return state

    def world_state(self):
        state = self.world.state()
        state["digest"] = hashlib.sha256(encode_json(state["people"])).hexdigest()
        return state

    def environment_state(self):
        self.world.weather.drift()
        return self.world.weather.report()

    async def chat(self, document):
        """A free-form command; what is none is answered by the model, with what was said before as its context."""
        world = self.world
        player, message = text_field(document, "player_id", "player"), text_field(document, "message")
        tokens = tokenize_chat(message)[:40]
        context = search_chat_log(world.chat_log, tokens)
        world.chat_log.append("{}: {}".format(player, message))
        for intent, pattern in COMMANDS:
            match = pattern.search(message)
            if match:
                break
        else:
            intent, match = "talk", None
        answer = {"intent": intent, "context_lines": len(context)}
        if intent == "go":
            column, row = PLACES[match.group(1).lower()]
            start = world.rng.choice(world.terrain.land)
            answer["steps"] = len(find_path(world.terrain, start, row * MAP_WIDTH + column))
        answer["reply"] = await ask_language_model("\n".join([player, message] + context[-10:]))
        return answer


def require_method(wanted, method):
    if method != wanted:
        raise HttpError(405, "use {}".format(wanted))


# --- HTTP -------------------------------------------------------------------------------------------------------------


async def read_request(reader):
    """The next request of a connection as (method, path, headers, body), None when the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise HttpError(400, "the request ends in its header", close=True) from None
        return None
    except asyncio.LimitOverrunError:
        raise HttpError(431, "the header is too long", close=True) from None
    method, path, headers = parse_head(head)
    if "transfer-encoding" in headers:
        raise HttpError(501, "send a content-length", close=True)
    length = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise HttpError(400, "content-length is not a number", close=True)
    if int(length) > BODY_LIMIT_BYTES:
        raise HttpError(413, "the body is too long", close=True)
    try:
        body = await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        raise HttpError(400, "the request ends in its body", close=True) from None
    return method, path, headers, body


def parse_head(head):
    lines = head.decode("latin-1").split("\r\n")
    request_line = lines[0].split(" ")
    if len(request_line) != 3 or not request_line[1].startswith("/") or request_line[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise HttpError(400, "not an HTTP/1.1 request", close=True)
    headers = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon:
            raise HttpError(400, "a header without a colon", close=True)
        headers[name.strip().lower()] = value.strip()
    if request_line[2] == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return request_line[0], request_line[1], headers


def format_response(status, document, close):
    body = encode_json(document)
    head = "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n".format(
        status, REASONS[status], len(body), "close" if close else "keep-alive"
    )
    return head.encode() + body


async def serve_connection(service, reader, writer):
    """One client, request after request, until it goes or breaks the protocol."""
    close = False
    try:
        while not close:
            try:
                request = await read_request(reader)
                if request is None:
                    break
                method, path, headers, body = request
                close = headers.get("connection", "").lower() == "close"
                status, document = 200, await service.answer(method, path, body)
            except HttpError as error:
                status, document = error.status, {"error": error.message}
                close = close or error.close
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception:
                traceback.print_exc()
                status, document = 500, {"error": "the service failed"}
            writer.write(format_response(status, document, close))
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass  # The client is gone, or the service is ending: there is nobody to tell.
    finally:
        writer.close()


# --- The process ------------------------------------------------------------------------------------------------------


def watch_stdin():
    """Runs on a thread of its own: whoever started us holds the other end, and its end is ours.

    There is nothing to save, and not even an event loop that is stuck may keep us alive.
    """
    while os.read(0, 4096):
        pass
    os._exit(0)


async def serve():
    world = World()
    service = Service(world)
    server = await asyncio.start_server(
        lambda reader, writer: serve_connection(service, reader, writer), "127.0.0.1", 0, limit=HEADER_LIMIT_BYTES
    )
    port = server.sockets[0].getsockname()[1]
    runtime = "CPython {}.{}.{}".format(*sys.version_info[:3])
    print("READY " + json.dumps({"port": port, "pid": os.getpid(), "runtime": runtime}), flush=True)
    threading.Thread(target=watch_stdin, name="watch-stdin", daemon=True).start()
    await asyncio.gather(server.serve_forever(), world.live())


if __name__ == "__main__":
    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        sys.exit(130)
