//! The folder of a model of tokens. diffusers has no class for it: `_class_name` is `TweediePipeline`.
//!
//! ```text
//! model_index.json                            scheduler/scheduler_config.json    (graph, noise, head)
//! transformer/config.json                     transformer/diffusion_pytorch_model.safetensors   (averaged weights)
//! tokenizer.json                              (of a text; its symbols)
//! tweedie.json                                (data, length, image_shape, loss)
//! state/checkpoint.safetensors                (everything a resumed run needs, one file)
//! ```

use super::folder::{FORMAT_VERSION, ModelFolder};
use crate::data::Tokenizer;
use crate::discrete::{Graph, GraphKind, Head, Noise};
use crate::error::{Error, Result};
use crate::nn::TransformerConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The network's folder.
pub const TRANSFORMER: &str = "transformer";

const SCHEDULER: &str = "TokenScheduler";

/// `scheduler_config.json`: the noise that a network of tokens was trained on, and what its outputs mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenScheduler {
    /// The graph.
    pub graph: GraphKind,
    /// K, without the mask.
    pub symbols: usize,
    /// Its schedule.
    #[serde(flatten)]
    pub noise: Noise,
    /// What the network returns.
    pub head: Head,
}

impl TokenScheduler {
    /// The graph on its symbols.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than 2 symbols.
    pub fn build_graph(&self) -> Result<Box<dyn Graph>> {
        self.graph.build(self.symbols)
    }
}

/// `tweedie.json` of a model of tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenJson {
    /// Layout version of the folder.
    pub format_version: u32,
    /// Name of the data.
    pub data: String,
    /// Seed of the held-out split of images.
    pub split_seed: u64,
    /// Of the data's tokens: other data under the same name has another. Folders of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Tokens of a sequence in training.
    pub length: usize,
    /// `[h, w, c]` where a sequence is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_shape: Option<[usize; 3]>,
    /// The loss it was trained on.
    pub loss: String,
    /// Why other programs cannot run this model.
    pub requires_tweedie: String,
}

/// What a folder says of its model of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenDescription {
    /// The network.
    pub transformer: TransformerConfig,
    /// Noise and head.
    pub scheduler: TokenScheduler,
    /// Our own fields.
    pub own: TokenJson,
    /// How text becomes tokens; none where they are pixels.
    pub tokenizer: Option<Tokenizer>,
}

impl TokenDescription {
    /// What bits are counted for.
    pub fn unit(&self) -> &'static str {
        self.tokenizer.as_ref().map_or("bits/dim", |tokenizer| tokenizer.kind().unit())
    }

    /// Checks that the parts belong together.
    ///
    /// # Errors
    /// [`Error::Model`] that names the two that do not.
    pub fn check(&self) -> Result<()> {
        let TokenDescription { transformer, scheduler, own, tokenizer } = self;
        let bad = |text: String| Err(Error::Model(text));
        let (k, states) = (scheduler.symbols, scheduler.build_graph()?.states());
        if (transformer.tokens, transformer.outputs) != (states, k) {
            let (tokens, outputs, graph) = (transformer.tokens, transformer.outputs, scheduler.graph.name());
            return bad(format!(
                "transformer/config.json has {tokens} tokens and {outputs} outputs; the {graph} graph of scheduler_config.json on {k} symbols wants {states} and {k}"
            ));
        }
        scheduler.noise.check()?;
        if own.length == 0 || own.length > transformer.length {
            let (length, most) = (own.length, transformer.length);
            return bad(format!("tweedie.json: length = {length}: expected 1 to the transformer's {most} positions"));
        }
        match (tokenizer, own.image_shape) {
            (Some(tokenizer), None) if tokenizer.symbols() == k => Ok(()),
            (Some(tokenizer), None) => {
                let got = tokenizer.symbols();
                bad(format!("tokenizer.json has {got} symbols, scheduler_config.json {k}"))
            }
            (None, Some(shape)) if shape.iter().product::<usize>() == own.length => Ok(()),
            (None, Some(shape)) => bad(format!("tweedie.json: images of {shape:?} do not have {} values", own.length)),
            _ => bad("expected either tokenizer.json or an image_shape in tweedie.json".into()),
        }
    }
}

impl ModelFolder {
    /// Whether the folder says that its model is one of tokens. A folder that says nothing is not.
    pub fn has_tokens(&self) -> bool {
        self.read_json("model_index.json").is_ok_and(|index| index.get(TRANSFORMER).is_some())
    }

    /// Makes the folders and writes the descriptions that say which model this is.
    ///
    /// # Errors
    /// [`Error::Io`] if something cannot be written.
    pub fn write_token_descriptions(&self, description: &TokenDescription) -> Result<()> {
        for name in [TRANSFORMER, "scheduler", "state"] {
            let path = self.path(name);
            std::fs::create_dir_all(&path).map_err(Error::io("create the folder", &path))?;
        }
        let to_value =
            |name: &str, value: serde_json::Result<Value>| value.map_err(|e| Error::Model(format!("{name}: {e}")));
        let mut scheduler = json!({ "_class_name": SCHEDULER });
        let fields = to_value("scheduler_config.json", serde_json::to_value(&description.scheduler))?;
        if let (Some(map), Value::Object(fields)) = (scheduler.as_object_mut(), fields) {
            map.extend(fields);
        }
        let mut index = json!({
            "_class_name": "TweediePipeline",
            "_diffusers_version": "0.30.0",
            "scheduler": ["tweedie", SCHEDULER],
            "transformer": ["tweedie", "Transformer"],
        });
        self.write_json("scheduler/scheduler_config.json", &scheduler)?;
        self.write_json("transformer/config.json", &description.transformer.to_json())?;
        let stale = self.path("tokenizer.json");
        if description.tokenizer.is_none() && stale.is_file() {
            std::fs::remove_file(&stale).map_err(Error::io("remove", &stale))?;
        }
        if let Some(tokenizer) = &description.tokenizer {
            self.write_json("tokenizer.json", &to_value("tokenizer.json", serde_json::to_value(tokenizer))?)?;
            index["tokenizer"] = json!(["tweedie", "Tokenizer"]);
        }
        self.write_json("tweedie.json", &to_value("tweedie.json", serde_json::to_value(&description.own))?)?;
        self.write_json("model_index.json", &index)
    }

    /// Reads and checks the descriptions of a model of tokens.
    ///
    /// # Errors
    /// [`Error::Model`] that says which file is missing, malformed or does not fit the others.
    pub fn read_token_descriptions(&self) -> Result<TokenDescription> {
        let in_folder = |e: Error| Error::Model(format!("model \"{}\": {e}", self.root().display()));
        let own: TokenJson = self.read_as("tweedie.json")?;
        if own.format_version > FORMAT_VERSION {
            let (path, version) = (self.path("tweedie.json"), own.format_version);
            return Err(Error::Model(format!(
                "{}: format version {version} is newer than this program's {FORMAT_VERSION}; use a newer tweedie",
                path.display()
            )));
        }
        let tokenizer = match self.path("tokenizer.json").is_file() {
            true => Some(self.read_as("tokenizer.json")?),
            false => None,
        };
        let transformer =
            TransformerConfig::from_json(&self.read_json("transformer/config.json")?).map_err(in_folder)?;
        let scheduler = self.read_as("scheduler/scheduler_config.json")?;
        let description = TokenDescription { transformer, scheduler, own, tokenizer };
        description.check().map_err(in_folder)?;
        Ok(description)
    }

    fn read_as<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.path(name);
        serde_json::from_value(self.read_json(name)?).map_err(|e| Error::Model(format!("{}: {e}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> TokenDescription {
        TokenDescription {
            transformer: TransformerConfig { outputs: 27, length: 32, ..TransformerConfig::default() },
            scheduler: TokenScheduler {
                graph: GraphKind::Absorbing,
                symbols: 27,
                noise: Noise::Cosine { eps: 0.0 },
                head: Head::LogClean,
            },
            own: TokenJson {
                format_version: FORMAT_VERSION,
                data: "text".into(),
                split_seed: 0,
                fingerprint: None,
                length: 32,
                image_shape: None,
                loss: "mdlm".into(),
                requires_tweedie: "a model of tokens".into(),
            },
            tokenizer: Some(Tokenizer::letters()),
        }
    }

    #[test]
    fn descriptions_come_back_and_the_noise_stands_beside_the_graph() {
        let root = tempfile::tempdir().unwrap();
        let folder = ModelFolder::new(root.path());
        assert!(!folder.has_tokens());
        folder.write_token_descriptions(&description()).unwrap();
        assert!(folder.has_tokens());
        assert_eq!(folder.read_token_descriptions().unwrap(), description());
        let scheduler = folder.read_json("scheduler/scheduler_config.json").unwrap();
        let want = json!({ "_class_name": "TokenScheduler", "graph": "absorbing", "symbols": 27, "noise": "cosine", "eps": 0.0, "head": "log_clean" });
        assert_eq!(scheduler, want);
    }

    #[test]
    fn parts_that_do_not_belong_together_are_named() {
        let base = description();
        let text = |description: TokenDescription| description.check().unwrap_err().to_string();
        let scheduler = TokenScheduler { graph: GraphKind::Uniform, ..base.scheduler.clone() };
        let other = text(TokenDescription { scheduler, ..base.clone() });
        assert!(other.contains("28 tokens and 27 outputs; the uniform graph"), "{other}");
        let own = TokenJson { length: 33, ..base.own.clone() };
        assert!(text(TokenDescription { own, ..base.clone() }).contains("length = 33: expected 1 to"));
        assert!(text(TokenDescription { tokenizer: None, ..base.clone() }).contains("either tokenizer.json"));
        assert!(text(TokenDescription { tokenizer: Some(Tokenizer::bytes()), ..base.clone() }).contains("256 symbols"));
        let own = TokenJson { image_shape: Some([5, 5, 1]), ..base.own.clone() };
        assert!(text(TokenDescription { own, tokenizer: None, ..base }).contains("do not have 32 values"));
    }
}
