"""Programs for transformers' TensorFlow classes: some that work unchanged, and some that do not.

Those that work ran on transformers 4.57.6 with tf-keras and TensorFlow 2.21, too, except for the
function with a signature in "generation compiled", which needs an AutoGraph that can read its
`generate`, and the pipelines, which need PyTorch there. `MODEL` is replaced by a model name. In a
program that must change, the line to change ends in `# change`; if the program fails only at a
later line, that line ends in `# fails`, and if it runs to its end with another result, `# differs`.
"""

WORK = {
    "model": """
from transformers import AutoTokenizer, TFGPT2Model
import tensorflow as tf

tokenizer = AutoTokenizer.from_pretrained("MODEL")
model = TFGPT2Model.from_pretrained("MODEL")
encoded = tokenizer("The cat sat on the mat", return_tensors="tf")
result = model(encoded, output_hidden_states=True, output_attentions=True)
hidden = result.last_hidden_state.numpy()
assert len(result.hidden_states) == model.config.n_layer + 1 and result.attentions is not None
""",
    "language model with labels": """
import transformers as t
tok = t.GPT2TokenizerFast.from_pretrained("MODEL", padding_side="right")
tok.pad_token = tok.eos_token
lm = t.TFGPT2LMHeadModel.from_pretrained("MODEL", pad_token_id=tok.eos_token_id)
batch = tok(["Some words", "Some more words of text"], padding=True, truncation=True,
            max_length=32, return_tensors="tf")
out = lm(**batch, labels=batch["input_ids"])
assert out.loss.numpy() > 0 and out[1].shape[0] == 2 and out.past_key_values
""",
    "double heads": """
import tensorflow as tf
from transformers import GPT2Tokenizer, TFGPT2DoubleHeadsModel

def main(name="MODEL"):
    tokenizer = GPT2Tokenizer.from_pretrained(name)
    model = TFGPT2DoubleHeadsModel.from_pretrained(name)
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "pad_token": "<pad>"})
    model.resize_token_embeddings(len(tokenizer))
    rows = tokenizer(["One end [CLS]", "Another end [CLS]"], padding="longest")["input_ids"]
    place = [row.index(tokenizer.cls_token_id) for row in rows]
    outputs = model(tf.constant([rows]), mc_token_ids=tf.constant([place]))
    assert outputs.mc_logits.shape == (1, 2) and outputs.logits.shape[-1] == len(tokenizer)

if __name__ == "__main__":
    main()
""",
    "classification": """
from transformers.models.gpt2.modeling_tf_gpt2 import TFGPT2ForSequenceClassification
from transformers import (
    AutoTokenizer,
    AutoConfig,  # its labels
)
import tensorflow as tf
config = AutoConfig.from_pretrained("MODEL", num_labels=3, pad_token_id=0)
tokenizer = AutoTokenizer.from_pretrained("MODEL")
model = TFGPT2ForSequenceClassification.from_pretrained("MODEL", config=config)
out = model(**tokenizer("A fine film", return_tensors="tf"), labels=tf.constant([2]))
assert out.logits.shape == (1, 3) and tf.reduce_mean(out.loss) > 0
""",
    "generation": """
from transformers import TFAutoModelForCausalLM, AutoTokenizer, GenerationConfig

class Writer:
    def __init__(self, name):
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = TFAutoModelForCausalLM.from_pretrained(name)
        self.model.generation_config.pad_token_id = self.tokenizer.eos_token_id

    def write(self, text):
        encoded = self.tokenizer(text, return_tensors="tf")
        settings = GenerationConfig(max_new_tokens=6, do_sample=True, top_k=40, top_p=0.95)
        ids = self.model.generate(**encoded, generation_config=settings)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]

assert Writer("MODEL").write("Once upon").startswith("Once upon")
""",
    "training": """
import tensorflow as tf
from transformers import GPT2Config, TFGPT2LMHeadModel
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
model.compile(optimizer=tf.keras.optimizers.Adam(1e-3))
ids = tf.ones([2, 8], tf.int32)
data = tf.data.Dataset.from_tensors({"input_ids": ids, "labels": ids})
model.fit(data, epochs=1, verbose=0)
""",
    "tokenizer in the graph": """
import tensorflow as tf
from transformers import AutoTokenizer, TFGPT2LMHeadModel
from transformers.modeling_tf_outputs import TFCausalLMOutputWithCrossAttentions
model = TFGPT2LMHeadModel.from_pretrained("MODEL")
tokenizer = AutoTokenizer.from_pretrained("MODEL")

@tf.function
def run(ids):
    return model(ids).logits

assert run(tokenizer("Hello there", return_tensors="tf").input_ids).shape[0] == 1
assert isinstance(model(tf.constant([[1]])), TFCausalLMOutputWithCrossAttentions)
""",
    "keywords of loading": """
from transformers import AutoTokenizer, TFGPT2LMHeadModel
tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path="MODEL", use_fast=True)
assert tokenizer.is_fast
model = TFGPT2LMHeadModel.from_pretrained(
    pretrained_model_name_or_path="MODEL", from_pt=False, trust_remote_code=False)
assert model.can_generate() and model.num_parameters() > 0 and model.name_or_path == "MODEL"
""",
    "loading info": """
from transformers import TFGPT2ForSequenceClassification
model, info = TFGPT2ForSequenceClassification.from_pretrained(
    "MODEL", num_labels=3, output_loading_info=True)
assert len(info["missing_keys"]) == 1 and "score" in info["missing_keys"][0]
""",
    "saving": """
import os, tempfile
from transformers import AutoTokenizer, GPT2Config, TFGPT2LMHeadModel
place = tempfile.mkdtemp()
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
model(model.dummy_inputs)
model.save_pretrained(place, push_to_hub=False, max_shard_size="200MB", safe_serialization=True)
assert os.path.exists(os.path.join(place, "model.safetensors"))
model.save_pretrained(save_directory=place, safe_serialization=False)
assert os.path.exists(os.path.join(place, "tf_model.h5"))
AutoTokenizer.from_pretrained("MODEL").save_pretrained(place, push_to_hub=False)
assert len(AutoTokenizer.from_pretrained(place)) > 500
""",
    "configurations": """
import os, tempfile
from transformers import GPT2Config, GenerationConfig
place = tempfile.mkdtemp()
config = GPT2Config(n_layer=2)
config.update({"n_head": 4})
config.to_json_file(os.path.join(place, "config.json"))
again = GPT2Config.from_json_file(json_file=os.path.join(place, "config.json"))
assert again.n_head == 4 and again.to_diff_dict()["n_layer"] == 2
changed, unused = GPT2Config.from_pretrained(place, n_layer=3, foo=1, return_unused_kwargs=True)
assert changed.num_hidden_layers == 3 and unused == {"foo": 1}
generation = GenerationConfig.from_model_config(config)
assert generation.update(max_new_tokens=5, unknown=1) == {"unknown": 1}
generation.save_pretrained(place)
loaded = GenerationConfig.from_pretrained(place, top_k=7, do_sample=True)
assert loaded.max_new_tokens == 5 and loaded.get_generation_mode() == "sample"
""",
    "encode_plus and pairs": """
from transformers import GPT2TokenizerFast
tokenizer = GPT2TokenizerFast.from_pretrained("MODEL")
tokenizer.pad_token = tokenizer.eos_token
one = tokenizer.encode_plus("To be", "or not", return_token_type_ids=True)
assert one["token_type_ids"][0] == 0 and one["token_type_ids"][-1] == 1
many = tokenizer.batch_encode_plus([("To be", "or"), ("not", "to be")], padding=True)
assert len(many["input_ids"]) == 2
assert tokenizer.num_special_tokens_to_add() == 0
assert tokenizer.build_inputs_with_special_tokens([1], [2]) == [1, 2]
""",
    "long texts": """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("MODEL")
tokenizer.pad_token = tokenizer.eos_token
out = tokenizer("to be or not to be that is the question", truncation=True, max_length=6, stride=2,
                return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length")
assert len(out["input_ids"]) > 1 and set(out["overflow_to_sample_mapping"]) == {0}
assert out.word_ids(0)[0] == 0 and out.sequence_ids(0)[0] == 0
assert out.char_to_token(0, 0) == 0 and out.token_to_chars(0, 0).start == 0
""",
    "words and their labels": """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("MODEL", add_prefix_space=True)
words, tags = ["Hamlet", "speaks", "again"], [1, 0, 0]
encoded = tokenizer(words, is_split_into_words=True, truncation=True)
labels, last = [], None
for word in encoded.word_ids():
    labels.append(-100 if word is None or word == last else tags[word])
    last = word
assert labels[0] == 1 and len(labels) == len(encoded["input_ids"])
""",
    "special tokens": """
from transformers import AddedToken, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("MODEL")
tokenizer.pad_token_id = tokenizer.eos_token_id
assert tokenizer.pad_token == tokenizer.eos_token
tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", AddedToken("<bot>")]})
assert len(tokenizer.additional_special_tokens_ids) == 2
assert tokenizer.added_tokens_decoder[tokenizer.convert_tokens_to_ids("<bot>")].content == "<bot>"
ids = tokenizer.encode("<user> hi")
mask = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
assert mask[0] == 1 and mask[-1] == 0
""",
    "a new vocabulary": """
from transformers import AutoTokenizer
old = AutoTokenizer.from_pretrained("MODEL")
new = old.train_new_from_iterator((["low lower lowest"] * 9 for _ in range(3)), vocab_size=280)
assert 256 < len(new) <= 280 and new.decode(new.encode("lower")) == "lower"
""",
    "chat template": """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("MODEL")
tokenizer.chat_template = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\\n{% endfor %}")
chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
text = tokenizer.apply_chat_template(chat, tokenize=False)
assert text == "user: Who?\\nassistant: I.\\n"
assert tokenizer.apply_chat_template(chat, return_tensors="tf").shape[0] == 1
""",
    "padding rows": """
from transformers import AutoTokenizer, BatchEncoding
tokenizer = AutoTokenizer.from_pretrained("MODEL", padding_side="left")
tokenizer.pad_token = tokenizer.eos_token
rows = [tokenizer("To be"), tokenizer("or not to be")]
batch = tokenizer.pad(rows, padding=True, pad_to_multiple_of=4, return_tensors="np")
assert isinstance(batch, BatchEncoding) and batch["input_ids"].shape[1] % 4 == 0
assert batch["attention_mask"][0, 0] == 0
""",
    "features and labels": """
import numpy as np, tensorflow as tf
from transformers import GPT2Config, TFGPT2ForSequenceClassification
config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8, num_labels=3,
                    pad_token_id=0)
model = TFGPT2ForSequenceClassification(config)
ids, labels = np.arange(24).reshape(4, 6) % 19 + 1, np.array([0, 1, 2, 1])
model.compile(optimizer=tf.keras.optimizers.Adam(1e-3), metrics=["accuracy"])
history = model.fit({"input_ids": ids}, labels, batch_size=4, epochs=2, verbose=0)
assert "accuracy" in history.history
model.fit({"input_ids": ids}, labels, batch_size=4, verbose=0,
          sample_weight=np.array([1.0, 0.0, 2.0, 1.0]))
assert model.predict({"input_ids": ids}, batch_size=4, verbose=0).logits.shape == (4, 3)
""",
    "loss of Keras": """
import numpy as np, tensorflow as tf
from transformers import GPT2Config, TFGPT2ForSequenceClassification
config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8, pad_token_id=0)
model = TFGPT2ForSequenceClassification(config)
loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
ids, labels = np.ones([2, 6], np.int32), np.array([0, 1])
model.fit(tf.data.Dataset.from_tensor_slices(({"input_ids": ids}, labels)).batch(2), verbose=0)
assert len(model.evaluate({"input_ids": ids}, labels, verbose=0)) == 2
""",
    "own loss by name": """
import numpy as np, tensorflow as tf
from transformers import GPT2Config, TFGPT2ForSequenceClassification
config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8, pad_token_id=0)
model = TFGPT2ForSequenceClassification(config)
model.compile(optimizer="adam", loss=model.hf_compute_loss)
model.fit({"input_ids": np.ones([2, 6], np.int32)}, np.array([0, 1]), verbose=0)
""",
    "collators": """
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, DataCollatorWithPadding
tokenizer = AutoTokenizer.from_pretrained("MODEL")
tokenizer.pad_token = tokenizer.eos_token
rows = [tokenizer("To be"), tokenizer("or not to be")]
collate = DataCollatorForLanguageModeling(tokenizer, mlm=False, return_tensors="np")
batch = collate(rows)
assert (batch["labels"] == -100).sum() == (batch["attention_mask"] == 0).sum()
batch = DataCollatorWithPadding(tokenizer=tokenizer, return_tensors="tf")(rows)
assert batch["input_ids"].shape[0] == 2
""",
    "optimizer": """
import numpy as np
from transformers import GPT2Config, TFGPT2LMHeadModel, create_optimizer
optimizer, schedule = create_optimizer(
    init_lr=2e-5, num_train_steps=100, num_warmup_steps=10, weight_decay_rate=0.01)
assert abs(float(schedule(10)) - 2e-5) < 1e-9 and float(schedule(100)) < 1e-9
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
model.compile(optimizer=optimizer)
ids = np.ones([2, 8], np.int32)
model.fit({"input_ids": ids, "labels": ids}, verbose=0)
""",
    "a loop of one's own": """
import tensorflow as tf
from transformers import GPT2Config, TFGPT2LMHeadModel
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=16))
optimizer = tf.keras.optimizers.Adam(1e-3)
ids = tf.ones([2, 8], tf.int32)
for _ in range(2):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(ids, labels=ids, training=True).loss)
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))
past, mask = None, tf.ones([2, 8], tf.int32)
for _ in range(3):
    inputs = model.prepare_inputs_for_generation(ids, past, use_cache=True, attention_mask=mask)
    out = model(**inputs)
    past, token = out.past_key_values, tf.argmax(out.logits[:, -1:], -1, output_type=tf.int32)
    ids, mask = tf.concat([ids, token], 1), tf.concat([mask, tf.ones([2, 1], tf.int32)], 1)
assert ids.shape == (2, 11)
""",
    "embeddings": """
import numpy as np
from transformers import GPT2Config, TFGPT2LMHeadModel
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
model(model.dummy_inputs)
model.resize_token_embeddings(22)
assert model.config.vocab_size == 22 and model.get_bias() is None
assert model.get_input_embeddings() is not None
""",
    "generation with results": """
import tensorflow as tf
from transformers import GPT2Config, TFGPT2LMHeadModel
from transformers.generation.tf_utils import TFGreedySearchDecoderOnlyOutput
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=32,
                                     eos_token_id=None, pad_token_id=0))
ids = tf.constant([[1, 2, 3]])
out = model.generate(ids, max_new_tokens=4, output_scores=True, return_dict_in_generate=True)
assert isinstance(out, TFGreedySearchDecoderOnlyOutput) and out[1] is out.scores
scores = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
assert scores.shape == (1, 4)
""",
    "generation processors": """
import tensorflow as tf
from transformers import GPT2Config, TFGPT2LMHeadModel
from transformers import TFLogitsProcessorList, TFNoBadWordsLogitsProcessor
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=32,
                                     eos_token_id=None, pad_token_id=0))
processors = TFLogitsProcessorList([TFNoBadWordsLogitsProcessor([[5], [6]], eos_token_id=19)])
out = model.generate(tf.constant([[1, 2, 3]]), max_new_tokens=4, logits_processor=processors)
assert not ({5, 6} & set(out.numpy()[0, 3:].tolist()))
""",
    "generation with beams": """
import tensorflow as tf
from transformers import GPT2Config, TFGPT2LMHeadModel
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=32,
                                     eos_token_id=None, pad_token_id=0))
out = model.generate(tf.constant([[1, 2, 3]]), max_new_tokens=4, num_beams=3,
                     num_return_sequences=2, early_stopping=True, return_dict_in_generate=True)
assert out.sequences.shape == (2, 7) and out[1].shape == (2,)
""",
    "generation of both kinds of padding": """
from transformers import AutoTokenizer, TFAutoModelForCausalLM
tokenizer = AutoTokenizer.from_pretrained("MODEL", padding_side="left")
tokenizer.pad_token = tokenizer.eos_token
model = TFAutoModelForCausalLM.from_pretrained("MODEL")
batch = tokenizer(["To be", "or not to be"], return_tensors="tf", padding=True)
out = model.generate(**batch, max_length=24, do_sample=True, seed=[42, 0], temperature=0.7,
                     top_k=None, repetition_penalty=1.2, pad_token_id=tokenizer.pad_token_id)
assert len(tokenizer.batch_decode(out, skip_special_tokens=True)) == 2
""",
    "generation compiled": """
import tensorflow as tf
from transformers import GPT2Config, TFGPT2LMHeadModel
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=32,
                                     eos_token_id=None, pad_token_id=0))
xla_generate = tf.function(model.generate, jit_compile=True)
ids = tf.constant([[1, 2, 3, 4]])
out = xla_generate(ids, attention_mask=tf.ones_like(ids), max_new_tokens=4, num_beams=2)
assert out.shape == (1, 8)

@tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int32)] * 2)
def serve(ids, mask):
    return {"ids": model.generate(ids, attention_mask=mask, max_new_tokens=4)}

assert serve(ids, tf.ones_like(ids))["ids"].shape == (1, 8)
""",
    "generation with types": """
import tensorflow as tf
from transformers import GPT2Config, TFGPT2LMHeadModel
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=32,
                                     eos_token_id=None, pad_token_id=0))
ids = tf.constant([[1, 2, 3]])
out = model.generate(ids, token_type_ids=tf.ones_like(ids), max_new_tokens=3)
assert out.shape == (1, 6)
""",
    "generation pipeline": """
from transformers import pipeline
writer = pipeline("text-generation", model="MODEL", framework="tf")
out = writer("To be", max_new_tokens=4, do_sample=False)
assert out[0]["generated_text"].startswith("To be")
out = writer(["To be", "or not"], max_new_tokens=4, do_sample=False, return_full_text=False)
assert len(out) == 2 and not out[0][0]["generated_text"].startswith("To be")
""",
    "classification pipelines": """
from transformers import AutoTokenizer, TFGPT2ForSequenceClassification, pipeline
model = TFGPT2ForSequenceClassification.from_pretrained("MODEL", num_labels=3, pad_token_id=0)
tokenizer = AutoTokenizer.from_pretrained("MODEL")
judge = pipeline("text-classification", model=model, tokenizer=tokenizer)
one, two = judge("fine"), judge(["fine", "poor"])
assert one[0] == two[0] and set(one[0]) == {"label", "score"}
assert len(judge("fine", top_k=None)) == 3
features = pipeline("feature-extraction", model="MODEL", framework="tf")
assert len(features("To be")[0]) == len(tokenizer("To be")["input_ids"])
""",
    "inputs in a list": """
import tensorflow as tf
from transformers import GPT2Config, TFGPT2Model
model = TFGPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
ids = tf.constant([[1, 2, 3]])
a = model({"input_ids": ids, "attention_mask": tf.ones_like(ids)})[0]
b = model(ids, attention_mask=tf.ones_like(ids))[0]
out = model(ids, use_cache=True)
c = model(ids[:, :1], past_key_values=out.past_key_values, return_dict=False)
assert a.shape == b.shape == (1, 3, 8) and len(c) == 2
""",
}

START = """
import tensorflow as tf
from transformers import AutoTokenizer, GPT2Config, TFGPT2LMHeadModel
tokenizer = AutoTokenizer.from_pretrained("MODEL")
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
ids = tf.constant([[1, 2, 3]])
"""

# Lines to run after `START`, each of which fails here. Those that transformers refuses, too, are
# slips that the command finds as well.
FAIL = {
    "attention": 'TFGPT2LMHeadModel.from_pretrained("MODEL", attn_implementation="sdpa")  # change',
    "torch tensors": 'tokenizer("a", return_tensors="pt")  # change',
    "decode": "tokenizer.decode([1], skip_specials=True)  # change",
    "batch_decode": "tokenizer.batch_decode([[1]], skip_specials=True)  # change",
    "temperature without sampling": "model.generate(ids, temperature=0.7)  # change",
    "unknown option": "model.generate(ids, top_kk=3)  # change",
    "words": "model.generate(ids, num_beams=2, force_words_ids=[[1]])  # change",
    "labels for the bare model": "model2 = TFGPT2LMHeadModel(model.config)\n"
    "model2(ids, lables=ids)  # change",
    "push_to_hub": 'model.push_to_hub("me/mine")  # change',
    "push while saving": 'model.save_pretrained("x", push_to_hub=True)  # change',
    "list of losses": 'model.compile("adam", loss=["mse", None])  # change\n'
    "model.fit(ids, ids, verbose=0)  # fails",
    "configuration": "GPT2Config(n_layers=3)  # change",
    "attribute of a configuration": "model.config.n_layers  # change",
    "result": "model(ids).past  # change",
    "to": 'tokenizer("a", return_tensors="tf").to("cuda")  # change',
    "shape of the loss": "out = model(ids, labels=ids)\nprint(out.loss[0])  # change",
    "task": 'from transformers import pipeline\npipeline("fill-mask", model="MODEL")  # change',
}
