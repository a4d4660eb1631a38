"""The local server: TensorFlow Serving's contract, and what it lacks, for one machine.

It runs SavedModels and nothing else: no module here imports the model code of this package. The
rooms, from the inside out: `status` (errors and their codes), `settings`, `saved_model` (one loaded
version), `models` (which versions are loaded), `batching` (rows of many requests as one batch),
`service` (a request from its tensors to its answer), then the faces `rest`, `grpc_api` and
`completions` with `streaming`, and `app` and `run`, which join them into a process.
"""
