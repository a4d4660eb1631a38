"""SIGTERM: running requests are finished, clients that let the server wait are not waited for."""

import asyncio
import contextlib

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tests.serving.server.test_connections import BODY, LONG, PREDICT, STREAM
from tests.support.raw_grpc import call_without_reading
from tests.support.running_server import RunningServer, closed, http_request, wait_until

METHOD = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture
def serve(tmp_path, monkeypatch):
    limits = ("idle_seconds", "receive_seconds", "send_seconds", "timeout_seconds")
    options = dict.fromkeys((*limits, "drain_seconds"), LONG)
    return lambda **changed: RunningServer(tmp_path, monkeypatch, **(options | changed))


def predict_request():
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "generate"
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(["a"]))
    return request


def unary(channel):
    return channel.unary_unary(
        METHOD,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=predict_pb2.PredictResponse.FromString,
    )


@contextlib.asynccontextmanager
async def open_channel(server, **options):
    options = [("grpc.max_receive_message_length", -1), *options.items()]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        yield channel


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", http_request(PREDICT, b"{", length=9)],
    ids=["nothing", "headers", "a body"],
)
def test_half_a_request_does_not_hold_up_the_server(serve, sent):
    async def main():
        async with serve() as server:
            _, _writer = await server.connect(sent)
            await wait_until(lambda: server.connections)
            finished, seconds = await server.stop()
            assert finished and seconds < 15

    asyncio.run(main())


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", STREAM), (PREDICT, BODY)])
def test_an_unread_answer_does_not_hold_up_the_server(serve, path, body):
    async def main():
        async with serve(stream_tokens=1) as server:
            server.servable.token = b"x" * 3_000_000
            _, writer = await server.connect(http_request(path, body.encode()))
            writer.transport.pause_reading()
            await wait_until(lambda: any(one.flow.write_paused for one in server.connections))
            finished, seconds = await server.stop()
            assert finished and seconds < 15

    asyncio.run(main())


def test_a_batch_whose_client_has_left_does_not_hold_up_the_server(serve):
    async def main():
        async with serve() as server:
            server.servable.gate.clear()
            _, writer = await server.connect(http_request(PREDICT, BODY.encode()))
            await wait_until(server.servable.generating.is_set)
            writer.close()
            finished, seconds = await server.stop()
            server.servable.gate.set()
            assert finished and seconds < 15

    asyncio.run(main())


def test_a_running_request_is_finished(serve):
    async def main():
        async with serve() as server, open_channel(server) as channel:
            server.servable.gate.clear()
            reader, _ = await server.connect(http_request(PREDICT, BODY.encode()))
            call = unary(channel)(predict_request())
            await wait_until(lambda: server.servable.calls.count("generate") == 2)
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(2)  # longer than others may let it wait
            assert not stopping.done()
            server.servable.gate.set()
            assert (await closed(reader)).startswith(b"HTTP/1.1 200 ")
            assert (await call).model_spec.name == "m"
            finished, _ = await stopping
            assert finished

    asyncio.run(main())


@pytest.mark.parametrize("drain_seconds", [0.5, LONG])
def test_after_the_time_or_a_second_signal_running_requests_are_not_finished(serve, drain_seconds):
    async def main():
        async with serve(drain_seconds=drain_seconds) as server, open_channel(server) as channel:
            server.servable.gate.clear()
            reader, _ = await server.connect(http_request(PREDICT, BODY.encode()))
            call = unary(channel)(predict_request())
            await wait_until(lambda: server.servable.calls.count("generate") == 2)
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0.3)
            if drain_seconds == LONG:
                server.terminate()
            finished, seconds = await stopping
            server.servable.gate.set()
            assert not finished and seconds < 15
            with pytest.raises(grpc.RpcError):
                await call

    asyncio.run(main())


def test_grpc_connections_and_calls_do_not_hold_up_the_server(serve):
    async def main():
        async with serve() as server, open_channel(server) as channel:
            server.servable.token = b"x" * 3_000_000
            await asyncio.open_connection("127.0.0.1", server.grpc_port)  # says nothing
            half = channel.stream_unary(METHOD)()
            unread = channel.unary_stream(METHOD)(predict_request().SerializeToString())
            await wait_until(server.servable.generating.is_set)
            await asyncio.sleep(0.5)
            finished, seconds = await server.stop()
            assert finished and seconds < 15
            with pytest.raises(grpc.RpcError):
                await half
            unread.cancel()

    asyncio.run(main())


def test_a_grpc_call_whose_message_does_not_arrive(serve):
    async def main():
        async with serve(receive_seconds=0.3) as server, open_channel(server) as channel:
            call = channel.stream_unary(METHOD)()
            with pytest.raises(grpc.RpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "did not arrive within 0.3 seconds" in caught.value.details()
            call = channel.stream_unary(METHOD)()
            await call.done_writing()
            with pytest.raises(grpc.RpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (await unary(channel)(predict_request())).model_spec.name == "m"

    asyncio.run(main())


@pytest.mark.parametrize("preface", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_a_grpc_connection_that_says_nothing(serve, preface):
    async def main():
        async with serve(receive_seconds=0.5, idle_seconds=0.5) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc_port)
            writer.write(preface)
            await closed(reader)

    asyncio.run(main())


def test_an_idle_or_old_grpc_connection_is_closed(serve):
    async def main(**options):
        async with serve(**options) as server, open_channel(server) as channel:
            await unary(channel)(predict_request())
            state = channel.get_state()
            assert state is grpc.ChannelConnectivity.READY
            await asyncio.wait_for(channel.wait_for_state_change(state), 30)
            assert (await unary(channel)(predict_request())).model_spec.name == "m"

    asyncio.run(main(idle_seconds=0.5))
    asyncio.run(main(grpc_connection_seconds=0.5))


@pytest.mark.parametrize("answer_pings", [True, False])
def test_an_unread_grpc_response_ends_with_its_connection(serve, answer_pings):
    async def main():
        options = {"grpc_connection_seconds": 0.5, "timeout_seconds": 0.5, "send_seconds": 1.0}
        if not answer_pings:
            options = {"send_seconds": 0.5}
        async with serve(**options) as server:
            server.servable.token = b"x" * 1_000_000
            unread = call_without_reading(
                server.grpc_port,
                METHOD,
                predict_request().SerializeToString(),
                answer_pings=answer_pings,
            )
            await asyncio.wait_for(unread, 60)
            assert server.servable.calls == ["generate"]

    asyncio.run(main())


def test_a_grpc_client_that_leaves_ends_its_work(serve):
    async def main():
        async with serve() as server, open_channel(server) as channel:
            server.servable.gate.clear()
            call = unary(channel)(predict_request())
            await wait_until(server.servable.generating.is_set)
            call.cancel()
            await wait_until(lambda: not server.leases())
            finished, seconds = await server.stop()
            assert finished and seconds < 15

    asyncio.run(main())
