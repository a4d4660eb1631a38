"""Replacements for names of other libraries that this package does not have.

The tables hold the texts alone: `introspect` finds out whether a name exists here, and a test
checks that the tables list no name that does.
"""

from __future__ import annotations

# Names of transformers.
NAMES = {
    "TFTrainer": "model.compile(optimizer); model.fit(dataset)",
    "TFTrainingArguments": "the arguments of model.compile and model.fit",
    "TFAutoModelWithLMHead": "TFAutoModelForCausalLM",
    "TFPreTrainedModel": "keras.Model",
    "GPT2Model": "TFGPT2Model",
    "GPT2LMHeadModel": "TFGPT2LMHeadModel",
    "GPT2DoubleHeadsModel": "TFGPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification": "TFGPT2ForSequenceClassification",
    "GPT2ForTokenClassification": "TFGPT2ForTokenClassification",
    "GPT2ForQuestionAnswering": "TFGPT2ForQuestionAnswering",
    "AutoModel": "TFAutoModel",
    "AutoModelForCausalLM": "TFAutoModelForCausalLM",
    "AutoModelForSequenceClassification": "TFAutoModelForSequenceClassification",
    "AutoModelForTokenClassification": "TFAutoModelForTokenClassification",
    "AutoModelForQuestionAnswering": "TFAutoModelForQuestionAnswering",
    "FlaxGPT2Model": "TFGPT2Model",
    "FlaxGPT2LMHeadModel": "TFGPT2LMHeadModel",
    "AdamWeightDecay": "keras.optimizers.AdamW(learning_rate, weight_decay=0.01)",
    "WarmUp": "keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=rate, "
    "warmup_steps=...)",
    "GradientAccumulator": "keras.optimizers.AdamW(..., gradient_accumulation_steps=n)",
    "set_seed": "keras.utils.set_random_seed(seed); generation takes its own seed=",
    "enable_full_determinism": "keras.utils.set_random_seed(seed); "
    "tf.config.experimental.enable_op_determinism()",
    "PushToHubCallback": "huggingface_hub.upload_folder after model.save_pretrained(directory)",
    "KerasMetricCallback": "keras.callbacks.LambdaCallback",
    "TextStreamer": "for piece in tfgpt2.TextGenerator(model, tokenizer).stream(text)",
    "TextIteratorStreamer": "for piece in tfgpt2.TextGenerator(model, tokenizer).stream(text)",
    "StoppingCriteriaList": "stopping_criteria=[function], functions of tensors",
    "PrefixConstrainedLogitsProcessor": "generate(regex=...), or choices=..., json_schema=...",
    "HammingDiversityLogitsProcessor": "generate(num_beam_groups=..., diversity_penalty=...)",
    "ClassifierFreeGuidanceLogitsProcessor": "generate(guidance_scale=...)",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "generate(guidance_scale=...)",
    "WatermarkingConfig": "generate(logits_processor=[...]), a TFLogitsProcessor of your own",
    "PreTrainedTokenizer": "GPT2Tokenizer",
    "PreTrainedTokenizerBase": "GPT2Tokenizer",
    "TF_MODEL_FOR_CAUSAL_LM_MAPPING": "leave it out: the model is TFGPT2LMHeadModel",
    "tf_top_k_top_p_filtering": "generate(do_sample=True, top_k=..., top_p=...)",
    "shape_list": "tf.shape(x), or x.shape where it is static",
    "set_verbosity_error": "leave it out: nothing is logged",
    "set_verbosity": "leave it out: nothing is logged",
    "set_verbosity_info": "leave it out: nothing is logged",
    "set_verbosity_warning": "leave it out: nothing is logged",
}

# Attributes of transformers' models, tokenizers and configurations.
MEMBERS = {
    "push_to_hub": "model.save_pretrained(directory), then huggingface_hub.upload_folder",
    "compute_loss_and_metrics": "model.evaluate",
    "eager_serving": "tfgpt2.TextGenerator(model, tokenizer).export(path)",
    "serving": "tfgpt2.TextGenerator(model, tokenizer).export(path)",
    "max_len": "tokenizer.model_max_length",
    "to": "leave it out: TensorFlow places tensors automatically",
    "greedy_search": "model.generate(ids)",
    "sample": "model.generate(ids, do_sample=True)",
    "beam_search": "model.generate(ids, num_beams=n)",
    "eval": "leave it out: dropout is active only with training=True",
    "from_pipeline": "tfgpt2.TextGenerator.from_pretrained(name)",
}

# Keyword arguments, by method ("()" is a call of the object itself).
KEYWORDS = {
    ("from_pretrained", "from_flax"): "leave it out: every format is detected",
    ("from_pretrained", "use_auth_token"): "token=...",
    ("from_pretrained", "resume_download"): "leave it out: downloads resume",
    ("from_pretrained", "proxies"): "the environment's HTTPS_PROXY",
    ("from_pretrained", "device_map"): "leave it out: TensorFlow places tensors automatically",
    ("save_pretrained", "signatures"): "tfgpt2.TextGenerator(model, tokenizer).export(path)",
    ("save_pretrained", "create_pr"): "huggingface_hub.upload_folder afterwards",
    ("save_pretrained", "push_to_hub"): "huggingface_hub.upload_folder afterwards",
}

# Names and methods of KerasHub; "Class.method" is a method of an instance of the class.
KERAS_HUB = {
    "GPT2CausalLM": "tfgpt2.TextGenerator; its name is a directory with a preset or a hub name",
    "CausalLM": "tfgpt2.TextGenerator",
    "GPT2CausalLM.from_preset": "tfgpt2.TextGenerator.from_pretrained(name)",
    "CausalLM.from_preset": "tfgpt2.TextGenerator.from_pretrained(name)",
    "GPT2CausalLM.generate": "generator.generate(texts, max_new_tokens=...): max_length counts "
    "the prompt there, and the prompt is not repeated here",
    "GPT2CausalLM.compile": "generator.model.compile(optimizer), which uses the model's own loss",
    "GPT2CausalLM.compile(sampler)": "settings of generator.generate instead of a sampler: "
    "temperature= (0 is greedy), top_k=, top_p=, num_beams=",
    "GPT2CausalLM.fit": "generator.model.fit(data.lm_dataset(texts, generator.tokenizer, "
    "block_size=..., batch_size=...)), with tfgpt2.training.data; texts may be a list or files",
    "GPT2CausalLM.score": "model(ids).logits",
    "GPT2CausalLM.save_to_preset": "generator.save_pretrained(directory)",
    "GPT2CausalLM.enable_lora": "tfgpt2.training.lora.enable_lora(model, rank=...)",
    "GPT2Backbone": "tfgpt2.TFGPT2Model",
    "GPT2Backbone.enable_lora": "tfgpt2.training.lora.enable_lora(model, rank=...)",
    "Backbone": "tfgpt2.TFGPT2Model",
    "GPT2Backbone.from_preset": "tfgpt2.TFGPT2Model.from_pretrained(name)",
    "GPT2Tokenizer": "tfgpt2.TFGPT2Tokenizer",
    "Tokenizer": "tfgpt2.TFGPT2Tokenizer",
    "GPT2Tokenizer.from_preset": "tfgpt2.TFGPT2Tokenizer.from_pretrained(name)",
    "GPT2Preprocessor": "tfgpt2.TFGPT2Tokenizer, which pads and masks",
    "GPT2CausalLMPreprocessor": "tfgpt2.TFGPT2Tokenizer, which pads and masks, with labels equal "
    "to the ids: the shift is in the loss",
    "TopKSampler": "generate(do_sample=True, top_k=...)",
    "TopPSampler": "generate(do_sample=True, top_p=...)",
    "RandomSampler": "generate(do_sample=True, top_k=0)",
    "GreedySampler": "generate(do_sample=False)",
    "BeamSampler": "generate(num_beams=...)",
    "ContrastiveSampler": "generate(penalty_alpha=..., top_k=...)",
}

# Functions of gpt-2-simple.
GPT_2_SIMPLE = {
    "download_gpt2": "leave it out: from_pretrained downloads",
    "is_gpt2_downloaded": "leave it out: from_pretrained downloads what is missing",
    "start_tf_sess": "leave it out: there are no sessions",
    "reset_session": "keras.backend.clear_session()",
    "finetune": "model.compile('adamw'); model.fit(dataset), with tfgpt2.training.data; "
    "docs/migrate.md has the lines",
    "load_gpt2": "tfgpt2.TextGenerator.from_pretrained('checkpoint/run1'): it reads the same files",
    "generate": "generator.generate(prefix, max_new_tokens=length, temperature=..., top_k=..., "
    "num_return_sequences=nsamples, stop=truncate)",
    "generate_to_file": "generator.generate(...) and Path.write_text",
    "encode_csv": "tfgpt2.training.data",
    "encode_dataset": "tfgpt2.training.data",
    "copy_checkpoint_to_gdrive": "model.save_pretrained(directory)",
    "copy_checkpoint_from_gdrive": "from_pretrained(directory)",
    "mount_gdrive": "leave it out",
}
