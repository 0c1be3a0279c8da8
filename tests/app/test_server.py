"""What can go wrong before the page is served is one line."""

import importlib.util
import socket

import pytest

from unified_sess.app.server import serve
from unified_sess.utils.errors import UserError


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="extra `app`"):
        serve([])


def test_a_port_that_is_taken_and_a_host_that_is_none_are_named():
    pytest.importorskip("gradio", reason="needs the extra `app`")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .*another --host or --port"):
            serve([], port=port)
    with pytest.raises(UserError, match="--host nowhere.invalid"):
        serve([], host="nowhere.invalid")
    with pytest.raises(UserError, match="--max-size 0"):
        serve([], max_size=0)
