"""Text classifiers of Hugging Face's transformers: ``hf-text:config=FOLDER``, the folder with its tokeniser.

``rank`` finds the folder by itself where the checkpoints are ``checkpoint-N/`` folders. Needs transformers.
"""

import importlib.util
from pathlib import Path

from ckptbench import InputError, last_linear


class HuggingFaceText:
    """``config`` : the folder that says what the network is; ``length`` : of a text, in tokens."""

    name = "transformers-text"

    def architectures(self):
        return ["hf-text"] if importlib.util.find_spec("transformers") is not None else []

    def build(self, architecture, classes, config, length=128):
        from transformers import AutoConfig, AutoModelForSequenceClassification

        folder = Path(config)
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} has no config.json: name a folder that transformers has saved")
        settings = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, num_labels=classes
        )
        model = AutoModelForSequenceClassification.from_config(settings)
        padding = settings.pad_token_id or 0

        class Logits(type(model)):
            """The same network, whose output is the logits alone."""

            def forward(self, tokens):
                return super().forward(input_ids=tokens, attention_mask=(tokens != padding).long()).logits

        model.__class__ = Logits
        return model

    def head(self, model):
        name = last_linear(model)
        if name == "score":
            raise InputError(f"{type(model).__name__} has a head on every token: name a --layer")
        return name

    def names_in_files(self, model):
        """transformers 5 saves some networks under the names of earlier releases."""
        try:
            from transformers.core_model_loading import revert_weight_conversion
        except ImportError:
            return {}
        own = model.state_dict()
        names = {id(tensor): name for name, tensor in own.items()}
        saved = revert_weight_conversion(model, dict(own))
        return {names[id(tensor)]: name for name, tensor in saved.items() if id(tensor) in names}

    def tokenise(self, architecture, texts, config, length=128):
        """N x L token numbers, filled up to the longest text's."""
        from transformers import AutoConfig, AutoTokenizer

        try:
            tokeniser = AutoTokenizer.from_pretrained(config, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{config} holds no tokeniser ({str(error).splitlines()[0]}): save it beside the "
                "checkpoints, with processing_class=tokenizer in Trainer"
            ) from None
        settings = AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=False)
        tokeniser.pad_token_id = settings.pad_token_id or 0
        return tokeniser(texts, truncation=True, max_length=length, padding=True)["input_ids"]
