# `tfgpt2 serve` in a container. Not built where this project is developed; checked by hadolint.
# In the root of the repository:
#   docker build -f serving/docker/tfgpt2-serve.Dockerfile -t tfgpt2-serve .
#   docker run --rm -p 127.0.0.1:8501:8501 -p 127.0.0.1:8500:8500 -e TFGPT2_API_KEY=... \
#     -v "$PWD/saved_models/shakespeare-tiny:/models/shakespeare-tiny:ro" tfgpt2-serve
FROM python:3.11-slim-bookworm
COPY pyproject.toml README.md LICENSE /source/
COPY tfgpt2 /source/tfgpt2
RUN pip install --no-cache-dir '/source[serve]' && rm -r /source
USER 65532:65532
EXPOSE 8500 8501
# A version is loading until then; a slow request does not make a container unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/healthz', timeout=4)"]
# On all addresses of the container: give it a key, or publish its ports on 127.0.0.1 only.
ENTRYPOINT ["tfgpt2", "serve", "--host", "0.0.0.0"]
CMD ["/models/shakespeare-tiny"]
