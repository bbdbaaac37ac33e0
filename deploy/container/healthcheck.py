"""Exits 0 where ``/healthz`` of this container answers 200, or 1 and one line that says why not.

    healthcheck.py PORT [PATH]

The standard library alone: an image without curl is a smaller one.
"""

import http.client
import sys

TIMEOUT_S = 4


def main() -> int:
    port = int(sys.argv[1])
    path = sys.argv[2] if len(sys.argv) > 2 else "/healthz"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        said = response.read(200).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as exc:
        print(f"127.0.0.1:{port}{path}: {exc}")
        return 1
    finally:
        connection.close()
    print(said)
    return 0 if response.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
