"""Attacks between ranks need the hosts and stores of the tests of fmi, others moto's S3."""

from tests.unit.conftest import host, redis_client, redis_port, s3, s3_client, s3_cloud

__all__ = ["host", "redis_client", "redis_port", "s3", "s3_client", "s3_cloud"]
