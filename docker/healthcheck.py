"""Exit 0 when the address answers with the status: `healthcheck.py http://127.0.0.1:8000/health 200`. Standard library only."""

import sys
import urllib.error
import urllib.request


def status(address: str, seconds: float = 5.0) -> int:
    """The HTTP status of a GET of `address`; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=seconds) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(status(sys.argv[1]) != int(sys.argv[2]))
