"""Stands in for a language model: a process of its own that streams its answer as server-sent events on a fixed schedule.

    POST /v1/chat/completions   {"messages": [...], "stream": true}

The first token is sent WORLD_LLM_FIRST_TOKEN_MS (30) after the request was read, the others at WORLD_LLM_TOKENS_PER_S (400),
WORLD_LLM_TOKENS (12) in all, then `data: [DONE]`.  The schedule is absolute: a late token does not delay the next.  Without
`"stream": true` the whole answer comes when its last token would have.  Standard library only; it listens on a free port of
127.0.0.1, says so in one line on stdout and answers every path, one connection many requests.
"""

from __future__ import annotations

import asyncio
import json
import os

FIRST_TOKEN_S = float(os.environ.get("WORLD_LLM_FIRST_TOKEN_MS", "30")) / 1000
TOKENS_PER_S = float(os.environ.get("WORLD_LLM_TOKENS_PER_S", "400"))
TOKENS = int(os.environ.get("WORLD_LLM_TOKENS", "12"))
WORDS = ["The", "road", "is", "long", "and", "the", "harvest", "was", "poor", "this", "year", "friend"]
BODY_LIMIT_BYTES = 1 << 20


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def token(number: int) -> str:
    return WORDS[number % len(WORDS)] + " "


async def sleep_until(due: float) -> None:
    delay = due - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)


async def stream(writer: asyncio.StreamWriter, begin: float) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    for number in range(TOKENS):
        await sleep_until(begin + FIRST_TOKEN_S + number / TOKENS_PER_S)
        event = json.dumps({"choices": [{"index": 0, "delta": {"content": token(number)}}]})
        writer.write(head + chunk(f"data: {event}\n\n".encode()))
        await writer.drain()
        head = b""
    writer.write(head + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def whole(writer: asyncio.StreamWriter, begin: float) -> None:
    await sleep_until(begin + FIRST_TOKEN_S + max(0, TOKENS - 1) / TOKENS_PER_S)
    text = "".join(token(number) for number in range(TOKENS))
    body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            begin = asyncio.get_running_loop().time()
            headers = dict(line.lower().split(":", 1) for line in head.split("\r\n")[1:] if ":" in line)
            length = min(int(headers.get("content-length", "0")), BODY_LIMIT_BYTES)
            body = await reader.readexactly(length)
            wants_stream = length > 0 and json.loads(body).get("stream") is True
            await (stream if wants_stream else whole)(writer, begin)
            await writer.drain()
            if headers.get("connection", "").strip() == "close":
                break
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve_connection, "127.0.0.1", 0, backlog=1024)
    print("READY " + json.dumps({"port": server.sockets[0].getsockname()[1], "pid": os.getpid()}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
