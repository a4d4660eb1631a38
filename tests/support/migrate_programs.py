"""Programs for transformers' TensorFlow classes: some that work unchanged, and some that do not.

`MODEL` is replaced by a model name. In a program that must change, the line to change ends in
`# change`; if the program fails only at a later line, that line ends in `# fails`.
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
config = AutoConfig.from_pretrained("MODEL", num_labels=3, pad_token_id=0)
tokenizer = AutoTokenizer.from_pretrained("MODEL")
model = TFGPT2ForSequenceClassification.from_pretrained("MODEL", config=config)
out = model(**tokenizer("A fine film", return_tensors="tf"), labels=[2])
assert out.logits.shape == (1, 3) and out.loss.shape == ()
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
from transformers import AutoTokenizer, TFGPT2Tokenizer, TFGPT2LMHeadModel
from transformers.modeling_tf_outputs import TFCausalLMOutputWithCrossAttentions
host = AutoTokenizer.from_pretrained("MODEL")
tokenizer = TFGPT2Tokenizer.from_tokenizer(host, max_length=12, pad_token_id=0)
model = TFGPT2LMHeadModel.from_pretrained("MODEL")

@tf.function
def run(text):
    return model(tokenizer(text)).logits

assert run(tf.constant(["Hello there", "You"])).shape[:2] == (2, 12)
assert isinstance(model([[1]]), TFCausalLMOutputWithCrossAttentions)
""",
}

START = """
import tensorflow as tf
from transformers import AutoTokenizer, GPT2Config, TFGPT2LMHeadModel
tokenizer = AutoTokenizer.from_pretrained("MODEL")
model = TFGPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8))
ids = tf.constant([[1, 2, 3]])
"""

# Lines to run after `START`, each of which fails.
FAIL = {
    "use_safetensors": 'TFGPT2LMHeadModel.from_pretrained("MODEL", use_safetensors=True)  # change',
    "attention": 'TFGPT2LMHeadModel.from_pretrained("MODEL", attn_implementation="sdpa")  # change',
    "use_fast": 'AutoTokenizer.from_pretrained("MODEL", use_fast=True)  # change',
    "torch tensors": 'tokenizer("a", return_tensors="pt")  # change',
    "overflow": 'tokenizer("a", return_overflowing_tokens=True)  # change',
    "encode_plus": 'tokenizer.encode_plus("a")  # change',
    "decode": "tokenizer.decode([1], skip_specials=True)  # change",
    "batch_decode": "tokenizer.batch_decode([[1]], skip_specials=True)  # change",
    "temperature without sampling": "model.generate(ids, temperature=0.7)  # change",
    "unknown option": "model.generate(ids, top_kk=3)  # change",
    "words": "model.generate(ids, num_beams=2, force_words_ids=[[1]])  # change",
    "tf.function": "g = tf.function(model.generate, jit_compile=True)  # change\ng(ids)  # fails",
    "traced": "@tf.function\ndef f(x):\n    return model.generate(x)  # change\nf(ids)  # fails",
    "labels for the bare model": "model2 = TFGPT2LMHeadModel(model.config)\n"
    "model2(ids, lables=ids)  # change",
    "saved_model": 'model.save_pretrained("x", saved_model=True)  # change',
    "prepare_tf_dataset": "model.prepare_tf_dataset(ids)  # change",
    "push_to_hub": 'model.push_to_hub("me/mine")  # change',
    "list of losses": 'model.compile("adam", loss=["mse", None])  # change\n'
    "model.fit(ids, ids, verbose=0)  # fails",
    "own loss by name": "model.compile(loss=model.hf_compute_loss)  # change",
    "configuration": "GPT2Config(n_layers=3)  # change",
    "attribute of a configuration": "model.config.n_layers  # change",
    "result": "model(ids).past  # change",
    "to": 'tokenizer("a", return_tensors="tf").to("cuda")  # change',
}
