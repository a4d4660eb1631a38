"""The local server: TensorFlow Serving's REST and gRPC APIs and OpenAI's completions.

It runs SavedModels and imports no model code of this package. Its modules, from the inside out:
`serving_error` (canonical error codes), `settings`, `signature`, `text_model` (the signatures of a
text model, by name), `saved_model` (one loaded version), `version_manager` (loading and unloading),
`request_batcher` (rows of concurrent requests as one batch), `server_core` (limits and metrics),
then the APIs `rest`, `grpc_api` and `completions`, and `app` and `run`, which make them a process.
"""
