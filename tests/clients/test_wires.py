"""What real clients sent when `make test-clients` last ran them gets the same answers still."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Service
from tests.kit.wire import WIRES, Exchange, contains, load

RECORDED = [(path.stem, exchange) for path in sorted(WIRES.glob("*.json")) for exchange in load(path.stem)]


@pytest.mark.parametrize(
    "exchange", [exchange for _, exchange in RECORDED], ids=[f"{client}: {sent.what}" for client, sent in RECORDED]
)
def test_a_recorded_request_gets_the_status_and_the_members_it_got(service: Service, exchange: Exchange) -> None:
    direct = exchange.target.startswith("/v2")
    answer = exchange.send(service.triton_http if direct else service.url.removeprefix("http://"))
    assert answer.status == exchange.status, answer.body[:1000]
    assert contains(answer.anatomy, exchange.answer), answer.anatomy
