"""The files of serving/ are valid and agree with the export."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format

from tests.support.serving_messages import BatchingParameters, MonitoringConfig
from tfgpt2.serving import Client

HERE = Path(__file__).parents[2]
SERVING = HERE / "serving"
KUBERNETES = SERVING / "kubernetes"
MODEL = "shakespeare-tiny"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
# Flags of main.cc in tensorflow/serving that are used here, all since 2.8 but the last (2.18).
FLAGS = {
    "model_config_file", "model_config_file_poll_wait_seconds", "file_system_poll_wait_seconds",
    "monitoring_config_file", "rest_api_timeout_in_ms", "enable_batching",
    "batching_parameters_file", "enable_per_model_batching_parameters",
    "xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled",
}  # fmt: skip


def read(path):
    return list(yaml.safe_load_all((SERVING / path).read_text()))


@pytest.fixture(scope="module")
def compose():
    return read("docker-compose.yml")[0]


def models_config(text):
    server_config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    return text_format.Parse(text, server_config.ModelServerConfig())


def flags(arguments):
    pairs = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    assert len(pairs) == len(arguments) and pairs.keys() <= FLAGS
    return pairs


# The server's own files --------------------------------------------------------------------------


def test_models():
    (config,) = models_config((SERVING / "models.config").read_text()).model_config_list.config
    assert config.name == MODEL and config.model_platform == "tensorflow"
    assert config.base_path == f"/models/{MODEL}"
    assert config.model_version_policy.WhichOneof("policy_choice") == "latest"


def test_the_model_has_the_same_name_everywhere():
    assert f"MODEL := saved_models/{MODEL}/1" in (HERE / "Makefile").read_text()
    assert Client("http://localhost")._endpoint.model == MODEL
    assert (HERE / "tfgpt2" / "assets" / MODEL).is_dir()


def test_batching_parameters_are_those_of_an_export(tmp_path):
    from tfgpt2.serving.export import batching_options

    found = text_format.Parse(
        (SERVING / "batching_parameters.pbtxt").read_text(), BatchingParameters()
    )
    sizes = list(found.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[-1] == found.max_batch_size.value
    assert tuple(sizes) == batching_options.DEFAULT_SIZES
    batching = batching_options.Batching("server")
    batching_options.write_parameters(tmp_path, batching, batching_options.DEFAULT_SIZES)
    carried = (tmp_path / batching_options.PARAMETERS_FILE).read_text()
    assert text_format.Parse(carried, BatchingParameters()) == found
    assert batching_options.PARAMETERS_FILE in (SERVING / "README.md").read_text()


def test_invalid_files_are_detected():
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch_sizes { value: 1 }", BatchingParameters())
    with pytest.raises(AssertionError):
        flags(["--xla_cpu_compilation=true"])


def test_monitoring(compose):
    config = text_format.Parse((SERVING / "monitoring.config").read_text(), MonitoringConfig())
    assert config.prometheus_config.enable
    (job,) = read("prometheus.yml")[0]["scrape_configs"]
    assert job["metrics_path"] == config.prometheus_config.path
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    for name in ("serving-cpu", "serving-gpu"):
        service = compose["services"][name]
        assert host in service["networks"]["default"]["aliases"]
        assert any(published.endswith(f":{port}") for published in service["ports"])


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_accepts_its_configuration():
    subprocess.run(["promtool", "check", "config", SERVING / "prometheus.yml"], check=True)


# Compose -----------------------------------------------------------------------------------------


def test_compose_files_follow_the_specification():
    pytest.importorskip("check_jsonschema")
    files = [SERVING / "docker-compose.yml", SERVING / "docker-compose.batching.yml"]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
         *files], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_compose_flags(compose):
    cpu, gpu = (compose["services"][f"serving-{kind}"] for kind in ("cpu", "gpu"))
    on_cpu, on_gpu = flags(cpu["command"]), flags(gpu["command"])
    assert on_cpu["xla_cpu_compilation_enabled"] == "true"
    assert on_gpu == on_cpu | {"xla_gpu_compilation_enabled": "true"}
    assert gpu["image"] == cpu["image"] + "-gpu"
    version = tuple(map(int, cpu["image"].split(":")[1].split(".")))
    assert version >= (2, 18), "XLA on GPUs begins there"
    batched = flags(read("docker-compose.batching.yml")[0]["services"]["serving-cpu"]["command"])
    assert batched == on_cpu | {
        "enable_batching": "true", "enable_per_model_batching_parameters": "true",
        "batching_parameters_file": "/config/batching_parameters.pbtxt"}  # fmt: skip


def test_compose_mounts_what_the_flags_name(compose):
    for kind in ("cpu", "gpu"):
        service = compose["services"][f"serving-{kind}"]
        mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
        inside = {target: source for source, target in mounts.items()}
        assert inside["/models"] == "../saved_models"  # where exports go
        assert all((SERVING / source).exists() for source in mounts)
        batched = read("docker-compose.batching.yml")[0]["services"]["serving-cpu"]["command"]
        for value in flags(batched).values():
            assert not value.startswith("/") or value in inside
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["profiles"] == [kind]


class Status(http.server.BaseHTTPRequestHandler):
    state = "AVAILABLE"

    def do_GET(self):
        body = f'{{"model_version_status": [{{"version": "1", "state": "{self.state}"}}]}}'
        self.send_response(200 if self.path == f"/v1/models/{MODEL}" else 404)
        self.end_headers()
        self.wfile.write(body.encode() if self.path == f"/v1/models/{MODEL}" else b"{}")

    def log_message(self, *unused):
        pass


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(("state", "healthy"), [("AVAILABLE", True), ("LOADING", False)])
def test_the_health_check_works(compose, monkeypatch, state, healthy):
    monkeypatch.setattr(Status, "state", state)
    kind, *command = compose["services"]["serving-cpu"]["healthcheck"]["test"]
    assert kind == "CMD" and command[:2] == ["bash", "-c"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        script = command[2].replace("8501", str(server.server_port))
        done = subprocess.run(["bash", "-c", script], timeout=10)
        assert (done.returncode == 0) is healthy
    finally:
        server.shutdown()
        server.server_close()
    assert subprocess.run(["bash", "-c", script], stderr=subprocess.DEVNULL).returncode != 0


# Kubernetes --------------------------------------------------------------------------------------

FOLDERS = ("base", "object-store")
LOADER = "loader"  # applied once, to the volume of `base`


def built(folder):
    """Returns the objects of a folder, built by kubectl if available, else as written."""
    if shutil.which("kubectl"):
        done = subprocess.run(
            ["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        documents = yaml.safe_load_all(done.stdout)
    elif folder == "base":
        kustomization = read(f"kubernetes/{folder}/kustomization.yaml")[0]
        documents = [one for name in kustomization["resources"]
                     for one in read(f"kubernetes/{folder}/{name}")]  # fmt: skip
    else:
        pytest.skip("no kubectl to apply the patches")
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


@pytest.fixture(scope="module", params=FOLDERS)
def objects(request):
    return request.param, built(request.param)


def test_manifests_follow_the_schemas(objects):
    validator = pytest.importorskip("kubernetes_validate")
    _, found = objects
    for one in found.values():
        validator.validate(one, "1.31", strict=True)
    broken = dict(found["Deployment", "tfgpt2-serving"], spec={"replica": 1})
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, "1.31", strict=True)


def test_every_file_is_used():
    for folder in (*FOLDERS, LOADER):
        kustomization = read(f"kubernetes/{folder}/kustomization.yaml")[0]
        named = {*kustomization["resources"],
                 *(patch["path"] for patch in kustomization.get("patches", []))}  # fmt: skip
        there = {path.name for path in (KUBERNETES / folder).iterdir()} - {"kustomization.yaml"}
        assert named - {"../base"} == there


def test_manifests_agree_with_each_other(objects):
    folder, found = objects
    deployment = found["Deployment", "tfgpt2-serving"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    assert labels >= deployment["spec"]["selector"]["matchLabels"].items()
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "http": 8501}
    for (kind, _), one in found.items():
        if kind == "Service":
            assert labels >= one["spec"]["selector"].items()
            for port in one["spec"]["ports"]:
                assert ports[port["targetPort"]] == port["port"]
    assert labels >= found["PodDisruptionBudget", "tfgpt2-serving"]["spec"]["selector"][
        "matchLabels"].items()  # fmt: skip
    target = found["HorizontalPodAutoscaler", "tfgpt2-serving"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in found and "replicas" not in deployment["spec"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": f"/v1/models/{MODEL}", "port": "http"}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    claims = [v["persistentVolumeClaim"]["claimName"] for v in volumes.values()
              if "persistentVolumeClaim" in v]  # fmt: skip
    assert all(("PersistentVolumeClaim", claim) in found for claim in claims)
    assert bool(claims) is (folder == "base")
    assert not claims or mounts["models"] == "/models"
    if "serviceAccountName" in pod["spec"]:
        assert ("ServiceAccount", pod["spec"]["serviceAccountName"]) in found
    metrics = pod["metadata"]["annotations"]["prometheus.io/path"]
    assert metrics == read("prometheus.yml")[0]["scrape_configs"][0]["metrics_path"]


def test_manifests_agree_with_compose(objects, compose):
    folder, found = objects
    (container,) = found["Deployment", "tfgpt2-serving"]["spec"]["template"]["spec"]["containers"]
    service = compose["services"]["serving-cpu"]
    assert container["image"] == service["image"]
    here, there = flags(container["args"]), flags(service["command"])
    if folder == "object-store":  # polls a bucket less often
        here.pop("file_system_poll_wait_seconds"), there.pop("file_system_poll_wait_seconds")
    assert here == there
    files = found["ConfigMap", "tfgpt2-serving"]["data"]
    mounted = next(m for m in container["volumeMounts"] if m["name"] == "config")["mountPath"]
    for value in here.values():
        assert not value.startswith("/") or value in {f"{mounted}/{name}" for name in files}
    assert files["monitoring.config"] == (SERVING / "monitoring.config").read_text()
    (config,) = models_config(files["models.config"]).model_config_list.config
    assert config.name == MODEL and config.base_path.endswith(f"/models/{MODEL}")
    if folder == "base":
        assert files["models.config"] == (SERVING / "models.config").read_text()


def test_nothing_runs_as_root(objects):
    _, found = objects
    pods = [found["Deployment", "tfgpt2-serving"], *built(LOADER).values()]
    for pod in (one["spec"]["template"]["spec"] for one in pods):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_loader_copies_what_is_missing(tmp_path):
    """Its script, run here on other folders, twice; a part of an interrupted run is replaced."""
    validator = pytest.importorskip("kubernetes_validate")
    (job,) = built(LOADER).values()
    validator.validate(job, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
    assert all(("PersistentVolumeClaim", name) in built("base") for name in claims)
    (container,) = pod["containers"]
    (script,) = container["args"]
    script = script.replace("/export", str(tmp_path / "export"))
    script = script.replace("/models", str(tmp_path / "models"))
    for name in ("m/1", "m/2", "n/1"):
        (tmp_path / "export" / name / "variables").mkdir(parents=True)
        (tmp_path / "export" / name / "saved_model.pb").write_text(name)
    (tmp_path / "models" / "m" / ".2.part" / "old").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1").mkdir()
    command = [*container["command"], script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["m/1 is there", "m/2 is copied", "n/1 is copied"]
    assert sorted(p.name for p in (tmp_path / "models" / "m").iterdir()) == ["1", "2"]
    assert not list((tmp_path / "models" / "m" / "1").iterdir())  # not touched
    found = tmp_path / "models" / "m" / "2"
    assert {path.name for path in found.iterdir()} == {"saved_model.pb", "variables"}
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("is there") == 3


# Docker and Grafana ------------------------------------------------------------------------------

DOCKERFILES = sorted((SERVING / "docker").glob("*.Dockerfile"))


@pytest.mark.skipif(not shutil.which("hadolint", path=PATH), reason="hadolint is not installed")
def test_dockerfiles_pass_the_linter():
    command = [shutil.which("hadolint", path=PATH), *DOCKERFILES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    broken = subprocess.run([command[0], "-"], input="FROM a\nRUN cd x\n", capture_output=True,
                            text=True)  # fmt: skip
    assert broken.returncode != 0


def test_dockerfiles_agree_with_the_rest(compose):
    assert [path.name for path in DOCKERFILES] == [
        "tensorflow-serving.Dockerfile", "tfgpt2-serve.Dockerfile"]  # fmt: skip
    serving, local = (path.read_text() for path in DOCKERFILES)
    service = compose["services"]["serving-cpu"]
    assert f"FROM {service['image']}\n" in serving
    given = flags(re.findall(r'"(--\w+=[^"]+)"', serving))
    assert given.items() <= flags(service["command"]).items()
    for source in re.findall(r"^COPY (?!--)(.*) \S+$", serving + local, re.M):
        assert all((HERE / name).exists() for name in source.split())
    assert "USER 65532" in serving.split("FROM")[-1] and "USER 65532" in local
    options = set(re.findall(r'"(--[a-z-]+)"', local))
    assert options == {"--host"}


def test_dashboards_show_metrics_that_exist():
    from tfgpt2.serving.server.metrics import Metrics

    page = Metrics(lambda: 0, lambda: 0).render().decode()
    known = set(re.findall(r"^# TYPE (\w+)", page, re.M))
    # Source: prediction_service_util and servables/tensorflow/util.cc of tensorflow/serving.
    known |= {f":tensorflow:serving:{name}"
              for name in ("request_count", "request_latency", "runtime_latency")}  # fmt: skip
    for path in sorted((SERVING / "grafana").glob("*.json")):
        board = json.loads(path.read_text())
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 4
        for panel in board["panels"]:
            for target in panel["targets"]:
                names = re.findall(r":?\b(?:tensorflow|tfgpt2)[\w:]+", target["expr"])
                assert names
                for name in names:
                    assert name in known or re.sub(r"_(bucket|sum|count)$", "", name) in known, name


# README --------------------------------------------------------------------------------------


def test_the_readme_names_existing_files_and_flags(compose):
    page = (SERVING / "README.md").read_text()
    for name in re.findall(r"^\| `([\w./-]+)`(?:, `([\w./-]+)`)?", page, re.M):
        for path in filter(None, name):
            assert (SERVING / path).exists() or path.startswith("batching="), path
    assert set(re.findall(r"--profile (\w+)", page)) <= {
        profile for service in compose["services"].values() for profile in service["profiles"]
    }
    for flag in re.findall(r"--([a-z_]{8,})(?:=|`)", page):
        known = FLAGS | {"platform_config_file", "load_retry_interval_micros",
                         "tf_xla_persistent_cache_directory"}  # fmt: skip
        assert flag in known, flag
    assert compose["services"]["serving-gpu"]["image"] in page
