"""API key, settings and addresses, without a model."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from starlette.testclient import TestClient
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from tfgpt2.serving.server.api_key import has_key
from tfgpt2.serving.server.app import make_app
from tfgpt2.serving.server.browser_checks import is_loopback
from tfgpt2.serving.server.grpc_api import make_server
from tfgpt2.serving.server.server_core import ServerCore
from tfgpt2.serving.server.settings import BatchSettings, ServerSettings


@pytest.fixture
def make_settings(tmp_path):
    return lambda **options: ServerSettings(models={"m": tmp_path}, port=0, **options)


def test_all_paths_but_the_page_and_health_need_the_key(make_settings):
    client = TestClient(make_app(ServerCore(make_settings(api_key="sesame é"))))
    for path in ("/v1/models", "/v1/models/m", "/metrics", "/nothing"):
        for given in ({}, {"Authorization": "Bearer no"}, {"Authorization": "sesame"}):
            answer = client.get(path, headers=given)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    key = {"Authorization": "Bearer sesame é".encode()}
    assert client.get("/v1/models", headers=key).status_code == 200
    assert client.post("/v1/completions").json()["error"]["type"] == "authentication_error"
    assert client.get("/").status_code == 200
    assert client.get("/healthz").status_code == 503  # no model yet


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (b"Bearer sesame", True), (b"bearer sesame", True), (b"BEARER sesame", True),
        (b"  bEaReR   sesame  ", True), (b"Bearer Sesame", False), (b"Bearer sesame!", False),
        (b"Bearersesame", False), (b"Basic sesame", False), (b"sesame", False), (b"", False),
        (b"Bearer", False), (b"Bearer ", False), (b"Bearer sesame sesame", False),
        (b"Token Bearer sesame", False), (b"Bearer \xff", False),
    ],
)  # fmt: skip
def test_the_scheme_of_a_key_has_any_case(make_settings, header, accepted):
    client = TestClient(make_app(ServerCore(make_settings(api_key="sesame"))))
    answer = client.get("/v1/models", headers={"Authorization": header})
    assert answer.status_code == (200 if accepted else 401)
    assert has_key(header, "sesame") == accepted


def test_a_key_may_be_any_bytes():
    assert has_key(b"Bearer \xff\xe9", "\udcff\udce9")  # as `os.environ` has them
    assert has_key("Bearer sésame ouvre toi".encode(), "sésame ouvre toi")


def test_grpc_needs_the_key(make_settings):
    async def main():
        server = make_server(ServerCore(make_settings(api_key="sesame")))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "m"
        codes = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            for key in (None, "Bearer no", "Bearer sesame", "bearer  sesame "):
                metadata = [("authorization", key)] if key else None
                with pytest.raises(grpc.RpcError) as caught:
                    await stub.GetModelStatus(request, metadata=metadata, timeout=30)
                codes.append(caught.value.code().name)
        await server.stop(0)
        return codes

    assert asyncio.run(main()) == ["UNAUTHENTICATED"] * 2 + ["NOT_FOUND"] * 2


def test_grpc_health_needs_no_key_and_services_are_not_listed(make_settings):
    async def main():
        server = make_server(ServerCore(make_settings(api_key="sesame")))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = health_pb2.HealthCheckRequest()
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=30)
            path = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
            with pytest.raises(grpc.RpcError) as caught:
                await channel.unary_unary(path)(b"", timeout=30)
        await server.stop(0)
        return answer.status, caught.value.code().name

    status, code = asyncio.run(main())
    assert status == health_pb2.HealthCheckResponse.NOT_SERVING  # no model yet
    assert code == "UNIMPLEMENTED"


def test_internal_errors_are_not_revealed(make_settings, monkeypatch):
    core = ServerCore(make_settings())
    monkeypatch.setattr(core.metrics, "render", lambda: 1 / 0)
    client = TestClient(make_app(core), base_url="http://127.0.0.1", raise_server_exceptions=False)
    answer = client.get("/metrics")
    assert answer.status_code == 500 and answer.json() == {"error": "Internal error."}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": {}}, "no model to serve"),
        ({"models": {"a b": "."}}, "must not be empty or contain"),
        ({"models": {"m": "absent"}}, "no such directory"),
        ({"keep_versions": 0}, "`keep_versions` must be at least 1"),
        ({"timeout_seconds": float("nan")}, "`timeout_seconds` must be at least"),
        ({"labels": {"x": {"a": 1}}}, "must belong to a served model"),
    ],
)
def test_invalid_settings_are_rejected(tmp_path, options, message):
    models = {name: tmp_path / path for name, path in options.pop("models", {"m": "."}).items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ServerSettings(models=models, **options)


def test_a_version_directory_is_not_a_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match="one version of a model"):
        ServerSettings(models={"1": tmp_path})


def test_batch_sizes_must_fit_together():
    assert BatchSettings(max_batch_size=24).allowed_batch_sizes == (1, 2, 4, 8, 16, 24)
    for wrong in ((1, 4, 2, 8), (1, 2), (0, 8)):
        with pytest.raises(ValueError, match="must increase and end"):
            BatchSettings(max_batch_size=8, allowed_batch_sizes=wrong)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host) and not is_loopback("0.0.0.0") and not is_loopback("example.org")
