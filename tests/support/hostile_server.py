"""A server that answers as nobody should, in a process of its own: the path names the attack.

python hostile_server.py   prints its port; /ATTACK/anything is answered with that attack
"""

import gzip
import itertools
import os
import socket
import sys
import threading
import time

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = b'{"status":"success","data":{"resultType":"scalar","result":[%d,"4"]}}'


def whole(body, more=b""):
    return OK + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def bomb():
    """600 MB of zeroes, in 600 kB."""
    return gzip.compress(bytes(600 << 20), 6)


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


MANY = itertools.repeat
DIGITS = b"9" * 50_000
ATTACKS = {
    "hangs_up": list,
    "hangs_up_in_head": lambda: [OK[:20]],
    "garbage": lambda: [b"\x16\x03\x01\x02\x00" * 100],
    "endless_garbage": lambda: MANY(b"\xff" * 4096),
    "endless_status_line": lambda: itertools.chain([b"HTTP/1.1 200 "], MANY(b"O" * 4096)),
    "endless_header": lambda: itertools.chain([OK, b"X: "], MANY(b"x" * 4096)),
    "endless_headers": lambda: itertools.chain([OK], MANY(b"X: y\r\n" * 700)),
    "endless_informational": lambda: MANY(b"HTTP/1.1 103 Early\r\n\r\n" * 200),
    "endless_until_close": lambda: itertools.chain([OK + b"\r\n"], MANY(b"x" * 65536)),
    "endless_lines": lambda: itertools.chain([OK + b"\r\n"], MANY(b"m 1\n" * 16384)),
    "endless_chunks": lambda: itertools.chain([CHUNKED], MANY(chunk(b"x" * 65536))),
    "endless_tiny_chunks": lambda: itertools.chain([CHUNKED], MANY(chunk(b"#") * 10_000)),
    "endless_chunk_size": lambda: itertools.chain([CHUNKED], MANY(b"1" * 4096)),
    "endless_chunk_extension": lambda: itertools.chain([CHUNKED, b"1;"], MANY(b"x" * 4096)),
    "endless_trailers": lambda: itertools.chain([CHUNKED, b"0\r\n"], MANY(b"X: y\r\n" * 700)),
    "huge_chunk": lambda: itertools.chain([CHUNKED, b"F" * 16 + b"\r\n"], MANY(b"x" * 65536)),
    "huge_length": lambda: [OK + b"Content-Length: 99999999999999\r\n\r\n" + b"x" * 100],
    "length_of_5000_digits": lambda: [OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"],
    "negative_length": lambda: [OK + b"Content-Length: -1\r\n\r\nx"],
    "two_lengths": lambda: [OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"],
    "length_and_chunks": lambda: [
        OK + b"Content-Length: 3\r\n" + CHUNKED[len(OK) :] + b"0\r\n\r\n"
    ],
    "cut": lambda: [OK + b"Content-Length: 100\r\n\r\n" + b"x" * 99],
    "gzip_bomb": lambda: [whole(bomb(), b"Content-Encoding: gzip\r\n")],
    "gzip_bomb_in_chunks": lambda: [
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
        chunk(bomb()),
        b"0\r\n\r\n",
    ],
    "gzip_twice": lambda: [
        whole(gzip.compress(b"a") + gzip.compress(b"b"), b"Content-Encoding: gzip\r\n")
    ],
    "no_gzip": lambda: [whole(b"\x1f\x8b but no", b"Content-Encoding: gzip\r\n")],
    "brotli": lambda: [whole(b"x", b"Content-Encoding: br\r\n")],
    "wrong_encoding": lambda: [whole(b"\xff\xfe\x00 \x80\n" * 100)],
    "nul": lambda: [whole(bytes(1000))],
    "terminal_codes": lambda: [b"HTTP/1.1 500 \x1b[2J\x07\r\nContent-Length: 4\r\n\r\n\x1b[2J"],
    "huge_number": lambda: [whole(b"m " + DIGITS + b"\n")],
    "huge_number_json": lambda: [whole(DIGITS)],
    "huge_level": lambda: [whole(b"9" * 18)],
    "huge_exponent_json": lambda: [whole(b"1e999999999")],
    "deep_json": lambda: [whole(b"[" * 200_000)],
    "moved": lambda: [b"HTTP/1.1 302 Found\r\nLocation: /good/x\r\nContent-Length: 0\r\n\r\n"],
    "moved_to_a_file": lambda: [b"HTTP/1.1 301 M\r\nLocation: file:///etc/passwd\r\n\r\n"],
    "not_modified": lambda: [b"HTTP/1.1 304 Not Modified\r\n\r\n"],
    "switching": lambda: [b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
}
SLOW = {
    "silent": lambda: (b"",),
    "drip_head": lambda: (bytes([b]) for b in itertools.chain(OK, itertools.cycle(b"X: y\r\n"))),
    "drip_body": lambda: itertools.chain([OK + b"\r\n"], MANY(b"\n")),
    "drip_chunks": lambda: itertools.chain([CHUNKED], MANY(chunk(b"\n"))),
    "stops_in_the_middle": lambda: (OK + b"Content-Length: 10\r\n\r\nm 1\n",),
}


def answer(link):
    with link:
        try:
            head = b""
            while b"\r\n\r\n" not in head and (piece := link.recv(65536)):
                head += piece
            name = head.split(b"/", 2)[1].split(b"/")[0].split(b" ")[0].decode()
            if name == "good":
                is_api = b"/api/" in head
                body = (
                    GOOD % time.time() if is_api else b"m 4\n" if b"openmetrics" in head else b"4"
                )
                link.sendall(whole(body))
            for piece in ATTACKS.get(name, list)():
                link.sendall(piece)
            for piece in SLOW.get(name, list)():
                link.sendall(piece)
                time.sleep(0.02)
            if name in SLOW:
                link.settimeout(5)
                link.recv(1)
        except OSError:
            pass  # the other side has had enough


def main():
    parent = os.getppid()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        print(server.getsockname()[1], flush=True)
        server.settimeout(1.0)
        while os.getppid() == parent:
            try:
                link, _ = server.accept()
            except TimeoutError:
                continue
            link.settimeout(10)
            threading.Thread(target=answer, args=(link,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
