"""What is special about `http`: whom it believes, whom it shows a secret, what it refuses."""

import asyncio
import json
import os
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest
import uvloop
from started import program

from poolwright.actuators.file import File, LevelUrl
from poolwright.actuators.http import Http
from poolwright.core.errors import PlantFault, PolicyError
from poolwright.core.model import ActuationStatus, Setting, setting

SECRET = "s3cret-of-the-api"


class Api:
    """An HTTP API with levels in a dictionary; what was asked is in `asked`."""

    def __init__(self):
        self.levels = {"workers": 2}
        self.asked = []
        self.status = {}  # method -> (status line, headers, body) in place of what it would say
        self.wanted = None  # the Authorization that it wants
        self.obeys = True
        self.port = 0

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = [
                int(x.split(":")[1]) for x in head.lower().split("\r\n") if "content-length:" in x
            ]
            body = await reader.readexactly(length[0] if length else 0)
            self.asked.append((head, body))
            writer.write(self.said(head, body))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    def said(self, head, body):
        method, _, _ = head.split(" ", 2)
        if method in self.status:
            line, headers, text = self.status[method]
            return f"HTTP/1.1 {line}\r\n{headers}Content-Length: {len(text)}\r\n\r\n{text}".encode()
        if self.wanted is not None and f"{self.wanted}\r\n" not in head:
            text = f"who are you? you said {head!r}"
            return f"HTTP/1.1 401 No\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        if method != "GET":
            if self.obeys:
                self.levels |= json.loads(body)
            return b"HTTP/1.1 204 Done\r\n\r\n"
        text = json.dumps({"pools": [self.levels], "born": "monday"})
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


@asynccontextmanager
async def running(tls=None):
    api = Api()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0, ssl=tls)
    api.port = server.sockets[0].getsockname()[1]
    try:
        yield api
    finally:
        server.close()
        await server.wait_closed()


def http(api, scheme="http", host="127.0.0.1", **options):
    options = {
        "pointer": "/pools/0/workers",
        "body": '{"workers": {level}}',
        "confirm_timeout": 0.3,
        "timeout": 5.0,
        "url": f"{scheme}://{host}:{api.port}/pools",
    } | options
    return Http(Http.Options(**options), "web")


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
async def test_a_level_is_set_by_a_body_and_read_back(method):
    async with running() as api:
        made = http(api, method=method, epoch="/born")
        assert (await made.read()).epoch == "monday"
        outcome = await made.apply(setting(workers=5), 1)
        assert outcome.status is ActuationStatus.APPLIED, outcome.detail
        assert api.levels == {"workers": 5}
        (head, body), *_ = [ask for ask in api.asked if not ask[0].startswith("GET")]
        assert head.startswith(f"{method} /pools HTTP/1.1\r\n")
        assert "Content-Type: application/json\r\n" in head
        assert body == b'{"workers": 5}'


async def test_several_knobs_and_a_level_in_the_url():
    async with running() as api:
        api.levels = {"workers": 2, "threads": 4}
        made = http(
            api,
            knobs=("workers", "threads"),
            pointer="/pools/0/{knob}",
            set_url=f"http://127.0.0.1:{api.port}/set?{{knob}}={{level}}",
            body='{"{knob}": {level}}',
        )
        wanted = Setting(levels=(("threads", 2), ("workers", 3)))
        assert (await made.apply(wanted, 1)).status is ActuationStatus.APPLIED
        assert api.levels == {"workers": 3, "threads": 2}
        puts = [head.split()[1] for head, _ in api.asked if head.startswith("PUT")]
        assert puts == ["/set?threads=2", "/set?workers=3"], "what shrinks goes first"


async def test_a_promise_is_not_believed():
    async with running() as api:
        api.obeys = False
        outcome = await http(api).apply(setting(workers=5), 1)
    assert outcome.status is ActuationStatus.FAILED
    assert f":{api.port}/pools: workers: after 0.3 s told 5, and reads 2" in outcome.detail


async def test_a_lost_answer_is_not_a_lost_change():
    async with running() as api:
        made = http(api)
        api.status["PUT"] = ("500 Oops", "", "half way")
        outcome = await made.apply(setting(workers=5), 1)
        assert outcome.status is ActuationStatus.FAILED
        assert "PUT answered 500 Oops: half way" in outcome.detail
        api.levels["workers"] = 5  # it was obeyed all the same
        assert (await made.apply(setting(workers=5), 2)).status is ActuationStatus.APPLIED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status):
    async with running() as api, running() as elsewhere:
        goal = f"Location: http://127.0.0.1:{elsewhere.port}/pools\r\n"
        api.status["GET"] = (f"{status} Moved", goal, "")
        with pytest.raises(PlantFault, match=f"answered {status} Moved: points to http://127"):
            await http(api).read()
        del api.status["GET"]
        api.status["PUT"] = (f"{status} Moved", goal, "")
        assert (await http(api).apply(setting(workers=3), 1)).status is ActuationStatus.FAILED
    assert not elsewhere.asked
    assert elsewhere.levels == {"workers": 2}


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "token"
    path.write_text(SECRET + "\n")
    path.chmod(0o640)
    return path


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, f"Authorization: Bearer {SECRET}"),
        ("X-Api-Key: {secret}", f"X-Api-Key: {SECRET}"),
    ],
)
async def test_a_secret_opens_the_door_and_may_be_replaced(secret, header, wanted):
    more = {} if header is None else {"auth_header": header}
    async with running() as api:
        api.wanted = wanted
        made = http(api, auth_file=str(secret), **more)
        assert (await made.apply(setting(workers=3), 1)).status is ActuationStatus.APPLIED
        api.wanted = wanted.replace(SECRET, "another")
        with pytest.raises(PlantFault, match="GET answered 401"):
            await made.read()
        secret.write_text("another")
        assert (await made.read()).setting == setting(workers=3)


async def test_a_secret_is_not_shown_when_the_server_repeats_it(secret):
    async with running() as api:
        api.wanted = "nobody"
        made = http(api, auth_file=str(secret))
        with pytest.raises(PlantFault) as fault:
            await made.read()
        api.wanted = None
        api.status["PUT"] = ("403 No", "", f"not with {SECRET}")
        refused = await made.apply(setting(workers=3), 1)
        api.status["GET"] = ("200 OK", "", json.dumps({"pools": [{"workers": SECRET}]}))
        with pytest.raises(PlantFault) as odd:
            await made.read()
        api.status["GET"] = (f"400 {SECRET}", "", "")
        with pytest.raises(PlantFault) as reason:
            await made.read()
        api.status["GET"] = ("302 Found", f"Location: {'x' * 190}{SECRET}\r\n", "")
        with pytest.raises(PlantFault) as moved:
            await made.read()
        api.status["GET"] = ("200 OK", f"illegal line {SECRET}\r\n", "")
        with pytest.raises(PlantFault) as illegal:
            await made.read()
    assert refused.status is ActuationStatus.REFUSED
    assert "auth_file" in refused.detail
    faults = [str(one.value) for one in (odd, reason, moved, fault)]
    assert "s3cret" not in str(illegal.value)
    for said in (refused.detail, *faults):
        assert "s3c" not in said, "no part of it either"
        assert "***" in said


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
async def test_a_secret_that_all_may_read_is_not_used(secret, mode):
    secret.chmod(mode)
    async with running() as api:
        with pytest.raises(PlantFault, match=rf"token: everybody may .*mode 0{mode:o}.*o-rwx"):
            await http(api, auth_file=str(secret)).read()
    assert not api.asked


@pytest.mark.parametrize("text", [b"", b"\n", b"a\nb", b"a\r\nX: y", b"\xc3\xa9", b"x" * 20_000])
async def test_what_is_no_secret_is_not_sent(secret, text):
    secret.write_bytes(text)
    async with running() as api:
        with pytest.raises(PlantFault, match="token: is empty, too long, or more than one"):
            await http(api, auth_file=str(secret)).read()
    assert not api.asked


async def test_a_fifo_is_no_secret_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    async with running() as api:
        with pytest.raises(PlantFault, match="fifo: is no regular file"):
            await http(api, auth_file=str(tmp_path / "fifo")).read()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA, a server's certificate for localhost that it signed, and another CA."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run([program("openssl"), *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        made = ("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
        openssl("req", "-x509", *new, *made)
    openssl("req", *new[:-2], "-keyout", "s.key", "-out", "s.csr", "-subj", "/CN=localhost")
    (folder / "ext").write_text("subjectAltName=DNS:localhost\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext")
    openssl("x509", "-req", "-in", "s.csr", "-out", "s.pem", "-days", "2", *signed)
    return folder


@pytest.fixture
def tls(certificates):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "s.pem", certificates / "s.key")
    return context


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_tls_is_verified(new_loop, certificates, tls, tmp_path, secret):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(verified(certificates, tls, tmp_path, secret))


async def verified(certificates, tls, tmp_path, secret):
    ca = tmp_path / "ca.pem"
    ca.write_bytes((certificates / "ca.pem").read_bytes())
    async with running(tls) as api:
        made = http(api, "https", "localhost", ca_file=str(ca), auth_file=str(secret))
        assert (await made.apply(setting(workers=3), 1)).status is ActuationStatus.APPLIED
        asked = len(api.asked)
        for how in (
            {"ca_file": str(certificates / "other.pem")},
            {},
            {"ca_file": str(ca), "host": "127.0.0.1"},
        ):
            with pytest.raises(PlantFault, match="certificate is not trusted: ") as fault:
                await http(api, "https", **({"host": "localhost"} | how)).read()
            assert str(api.port) in str(fault.value)
        # the file that is trusted was replaced while we run
        ca.unlink()
        with pytest.raises(PlantFault, match=r"ca_file .*ca\.pem: No such file"):
            await made.read()
        ca.write_bytes((certificates / "other.pem").read_bytes())
        with pytest.raises(PlantFault, match="certificate is not trusted"):
            await made.read()
        ca.write_text("no certificate")
        with pytest.raises(PlantFault, match=r"ca_file .*ca\.pem: "):
            await made.read()
        assert len(api.asked) == asked, "nobody else was told anything"


async def test_plain_http_where_tls_is_wanted_and_the_other_way_round(tls):
    async with running() as api:
        with pytest.raises(PlantFault, match=rf"https://127\.0\.0\.1:{api.port}"):
            await http(api, "https", timeout=1.0).read()
    async with running(tls) as api:
        with pytest.raises(PlantFault, match=rf"http://127\.0\.0\.1:{api.port}"):
            await http(api, timeout=1.0).read()


async def test_file_reads_back_over_http(tmp_path):
    path = tmp_path / "conf"
    path.write_text("2")
    async with running() as api:
        told = LevelUrl(url=f"http://127.0.0.1:{api.port}/", pointer="/pools/0/workers")
        options = File.Options(path=str(path), get_http=told, confirm_timeout=0.3, get_timeout=5.0)
        made = File(options, "web")
        late = await made.apply(setting(workers=3), 1)
        assert late.status is ActuationStatus.FAILED, "the file says 3, what runs says 2"
        assert "told 3, and reads 2" in late.detail
        api.levels["workers"] = 3
        assert (await made.read()).setting == setting(workers=3)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"url": "ftp://h/"}, "not http"),
        ({"url": "http://u:p@h/"}, "user or password"),
        ({"set_url": "http://127.0.0.1:1/{level}"}, "another server"),
        ({"set_url": "https://h/{level}"}, "another server"),
        ({"body": "{}"}, r"\{level\} stands nowhere"),
        ({"body": '{"workers": {level}'}, "body: is no JSON"),
        ({"body": "workers={level}"}, "body: is no JSON"),
        ({"content_type": "a/b\r\nX: y"}, "content_type"),
        ({"pointer": "x"}, "no JSON pointer"),
        ({"epoch": "x"}, "no JSON pointer"),
        ({"auth_file": "/x"}, "in the clear"),
        ({"auth_header": "X: {secret} {secret}"}, "auth_header"),
        ({"auth_header": "X Y: {secret}"}, "auth_header"),
        ({"auth_header": "X: a\r\n{secret}"}, "auth_header"),
        ({"ca_file": "/x"}, "is not https"),
        ({"knobs": ("a", "b")}, "each needs its own"),
    ],
)
def test_what_makes_no_sense_is_refused(options, why):
    with pytest.raises(PolicyError, match=why):
        Http.Options(**({"url": "http://h:1/", "body": "{level}"} | options))


def test_what_does_make_sense_is_not():
    Http.Options(url="http://[::1]:80/", auth_file="/x")
    Http.Options(url="http://localhost/", auth_file="/x")
    Http.Options(url="https://h/", auth_file="/x", ca_file="/y")
    Http.Options(
        url="http://h/", body="n={level}", content_type="application/x-www-form-urlencoded"
    )
