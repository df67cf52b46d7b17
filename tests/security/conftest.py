"""What the security tests share: one broker with an authorizer."""

import logging
from collections.abc import Iterator

import pytest

from tests.support.secure import SecureBroker


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A broker with TLS, SASL and access control."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    broker = SecureBroker(tmp_path_factory.mktemp("secure"))
    yield broker
    broker.close()
