"""The fabric's web server, a process of its own: images, and a record of which guests say they live.

`GET /FILE` serves the www folder; `?rate_kib=N` slows it down; a file `NAME.redirect` makes `/NAME` answer 302 to the
URL in it. `GET /record?...` appends its parameters, with the time and the sender, as one JSON line to the record file.
"""

import argparse
import json
import shutil
import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, urlsplit

_CHUNK = 64 * 1024
_record_lock = threading.Lock()


class Handler(SimpleHTTPRequestHandler):
    """One request."""

    timeout = 60

    def __init__(self, *args: Any, records: Path, **kwargs: Any) -> None:
        self._records = records
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        """Serve, redirect or record."""
        url = urlsplit(self.path)
        redirect = Path(self.translate_path(url.path) + ".redirect")
        if url.path == "/record":
            self._record(dict(parse_qsl(url.query)))
        elif redirect.is_file():
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", redirect.read_text().strip())
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

    def _record(self, fields: dict[str, str]) -> None:
        line = json.dumps({**fields, "time_s": time.time(), "sender": self.client_address[0]})
        with _record_lock, self._records.open("a") as file:
            file.write(line + "\n")
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send the body, slowly when asked."""
        rate_kib = dict(parse_qsl(urlsplit(self.path).query)).get("rate_kib", "")
        if not rate_kib.isdigit() or int(rate_kib) == 0:
            shutil.copyfileobj(source, outputfile, _CHUNK)
            return
        _copy_slowly(source, outputfile, int(rate_kib))


def _copy_slowly(source: IO[bytes], target: IO[bytes], rate_kib: int) -> None:
    step = max(1, rate_kib * 1024 // 10)
    while block := source.read(step):
        target.write(block)
        time.sleep(0.1)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--records", type=Path, required=True)
    options = parser.parse_args()
    handler = partial(Handler, directory=str(options.directory), records=options.records)
    ThreadingHTTPServer((options.bind, options.port), handler).serve_forever()


if __name__ == "__main__":
    main()
