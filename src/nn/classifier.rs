//! A classifier of noisy images: the U-Net's way down, and attention from one query to what is left (Dhariwal & Nichol 2021, sec. 4.3).

use super::groups::in_groups;
use super::layers::{Conv2d, Linear, Norm, TimeEmbedding};
use super::param::{Builder, Init, Layout, ParamId, ParamSpec, Params};
use super::unet_blocks::{Block, Level, Walk, build_down, build_mid};
use super::unet_config::UNetConfig;
use super::{ClassEmbed, Mode, Precision};
use crate::error::{Error, Result};
use crate::ops::{self, Conv, ConvExtras, GroupNorm};
use crate::tape;
use crate::tensor::{Dtype, Tensor};
use serde_json::{Value, json};
use std::sync::Arc;

/// Sizes of a [`Classifier`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifierConfig {
    /// The U-Net whose way down this is; what it has on the way up is not built.
    pub unet: UNetConfig,
    /// Classes, at least 2.
    pub classes: usize,
}

/// The key that a U-Net's description does not have.
const CLASSES: &str = "num_classes";

impl ClassifierConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Model`] that names it.
    pub fn validate(&self) -> Result<()> {
        self.unet.validate()?;
        if self.classes < 2 || self.classes > 1 << 24 {
            return Err(Error::Model(format!("{CLASSES} = {}: expected at least 2, at most 2^24", self.classes)));
        }
        if self.unet.class_embed != ClassEmbed::None {
            return Err(Error::Model("class_embed_type: a classifier is not told the class".into()));
        }
        Ok(())
    }

    /// As `classifier/config.json` has it.
    pub fn to_json(&self) -> Value {
        let mut value = self.unet.to_json();
        value["_class_name"] = json!("NoisyClassifier");
        value[CLASSES] = json!(self.classes);
        value
    }

    /// Reads what [`ClassifierConfig::to_json`] wrote.
    ///
    /// # Errors
    /// [`Error::Model`] that names the field.
    pub fn from_json(value: &Value) -> Result<ClassifierConfig> {
        let mut value = value.clone();
        let classes = value.as_object_mut().and_then(|map| map.remove(CLASSES));
        let Some(classes) = classes.as_ref().and_then(Value::as_u64) else {
            return Err(Error::Model(format!("{CLASSES}: expected a whole number, got {classes:?}")));
        };
        let config = ClassifierConfig { unet: UNetConfig::from_json(&value)?, classes: classes as usize };
        config.validate()?;
        Ok(config)
    }
}

/// The network; its weights are kept in [`Params`].
pub struct Classifier {
    config: ClassifierConfig,
    specs: Vec<ParamSpec>,
    conv_in: Conv2d,
    time: TimeEmbedding,
    down: Vec<Level>,
    mid: Option<[Arc<Block>; 2]>,
    norm: Norm,
    query: ParamId,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    recompute: bool,
    precision: Precision,
}

impl Classifier {
    /// Builds the layers that `config` describes.
    ///
    /// # Errors
    /// [`Error::Model`] as [`ClassifierConfig::validate`].
    pub fn new(config: &ClassifierConfig) -> Result<Classifier> {
        config.validate()?;
        let (b, unet) = (&mut Builder::new(), &config.unet);
        let channels = &unet.block_out_channels;
        let c = channels[channels.len() - 1];
        let conv_in = Conv2d::new(b, "conv_in", unet.in_channels, channels[0], 3);
        let time = TimeEmbedding::new(b, "time_embedding", channels[0], unet.time_embed_dim());
        let mut index = 0;
        let down = build_down(b, unet, &mut index);
        let mid = unet.has_mid_block.then(|| build_mid(b, unet, &mut index));
        let norm = GroupNorm { groups: unet.norm_num_groups, norm_eps: unet.norm_eps, silu: true };
        let norm = Norm::new(b, "pool.norm", c, norm);
        let query = b.add("pool.query".into(), [1, c], Layout::Plain, Init::Normal);
        let [to_k, to_v] = ["pool.to_k", "pool.to_v"].map(|name| Linear::new(b, name, c, c));
        let to_out = Linear::new(b, "pool.to_out", c, config.classes);
        let specs = std::mem::take(b).finish();
        Ok(Classifier {
            config: config.clone(),
            specs,
            conv_in,
            time,
            down,
            mid,
            norm,
            query,
            to_k,
            to_v,
            to_out,
            heads: unet.attention_head_dim.map_or(1, |d| if c.is_multiple_of(d) { c / d } else { 1 }),
            recompute: false,
            precision: Precision::F32,
        })
    }

    /// As [`super::UNet::with_recompute`].
    pub fn with_recompute(self, recompute: bool) -> Classifier {
        Classifier { recompute, ..self }
    }

    /// The same network, its way down computing in `precision`; a new one computes in f32.
    pub fn with_precision(self, precision: Precision) -> Classifier {
        Classifier { precision, ..self }
    }

    /// The configuration.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// The parameters, in the order of [`Params`].
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The logits `[n, classes]`, f32, whose softmax is p_t(y | x_t).
    ///
    /// * `x` — `[n, h, w, in_channels]`, any h, w ≥ 1
    /// * `t` — `[n]`, times as the network was trained on them
    ///
    /// Differentiable in x and the parameters.
    ///
    /// # Errors
    /// [`Error::Shape`] if sizes disagree.
    pub fn forward(&self, p: &Params, x: &Tensor, t: &[f32], mode: Mode) -> Result<Tensor> {
        let unet = &self.config.unet;
        let (wants, shape) = (unet.in_channels, x.shape());
        if shape.nhwc().is_none_or(|[.., c]| c != wants) || x.count() == 0 {
            return Err(Error::Shape(format!("classifier: x wants [n,h,w,{wants}] with no size 0, got {shape}")));
        }
        let n = shape[0];
        if t.len() != n {
            return Err(Error::Shape(format!("classifier: {n} images want {n} times, got {}", t.len())));
        }
        in_groups(n, x.device(), mode, |rows| match rows.len() == n {
            true => self.forward_group(p, x, t, mode),
            false => self.forward_group(p, &x.rows(rows.start, rows.len())?, &t[rows], mode),
        })
    }

    /// [`Classifier::forward`] of images that go through each layer together.
    fn forward_group(&self, p: &Params, x: &Tensor, t: &[f32], mode: Mode) -> Result<Tensor> {
        let (unet, n) = (&self.config.unet, t.len());
        let features =
            ops::time_features(t, unet.block_out_channels[0], unet.flip_sin_to_cos, unet.freq_shift, x.device())?;
        let emb = tape::scope("time_embedding", || ops::silu(&self.time.forward(p, &features)?))?;
        let centred = if unet.center_input_sample { Some(ops::affine(x, 2.0, -1.0)?) } else { None };
        let x = &ops::cast(centred.as_ref().unwrap_or(x), self.precision.dtype())?;
        let h = tape::scope("conv_in", || self.conv_in.forward(p, x, Conv::same(3), ConvExtras::default()))?;
        let walk = Walk::new(p, &emb, mode, self.recompute);
        let mut h = walk.down(&self.down, unet.downsample_padding, h, |_| {})?;
        for block in self.mid.iter().flatten() {
            h = walk.block(block, (&h).into())?;
        }
        tape::scope("pool", || {
            let h = ops::cast(&self.norm.forward(p, &h, None)?, Dtype::F32)?;
            let query = ops::embed(p.get(self.query), &vec![0; n])?;
            let (k, v) = (self.to_k.forward(p, &h, None)?, self.to_v.forward(p, &h, None)?);
            self.to_out.forward(p, &ops::attention_pool(&query, &k, &v, self.heads)?, None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::initialise;
    use crate::rng::{Address, Purpose};
    use crate::testing::small_unet;

    fn small() -> ClassifierConfig {
        let unet = small_unet(1);
        ClassifierConfig { unet, classes: 3 }
    }

    #[test]
    fn a_description_is_read_back_and_what_is_wrong_is_named() {
        let config = small();
        assert_eq!(ClassifierConfig::from_json(&config.to_json()).unwrap(), config);
        let wrong = |change: &dyn Fn(&mut Value)| {
            let mut value = config.to_json();
            change(&mut value);
            ClassifierConfig::from_json(&value).unwrap_err().to_string()
        };
        assert!(wrong(&|v| v[CLASSES] = json!(1)).contains("num_classes = 1"));
        assert!(wrong(&|v| v[CLASSES] = json!("ten")).contains("num_classes: expected a whole number"));
        assert!(wrong(&|v| v["colour"] = json!(1)).contains("colour"));
    }

    #[test]
    fn logits_have_a_row_for_each_image_of_any_size_and_rows_do_not_see_one_another() {
        let classifier = Classifier::new(&small()).unwrap();
        let p = initialise(classifier.specs(), 3).unwrap();
        for [h, w] in [[8, 8], [5, 3], [1, 1]] {
            let mut x = vec![0.0_f32; 2 * h * w];
            Address::new(1, Purpose::Test).fill_normal(&mut x);
            let x = Tensor::from_slice(&x, [2, h, w, 1]).unwrap();
            let both = classifier.forward(&p, &x, &[10.0, 500.0], Mode::Inference).unwrap();
            assert_eq!(both.shape()[..], [2, 3]);
            let second = classifier.forward(&p, &x.rows(1, 1).unwrap(), &[500.0], Mode::Inference).unwrap();
            assert_eq!(both.to_vec::<f32>().unwrap()[3..], second.to_vec::<f32>().unwrap());
        }
        let x = Tensor::from_slice(&[0.0_f32; 4], [1, 2, 2, 1]).unwrap();
        assert!(classifier.forward(&p, &x, &[1.0, 2.0], Mode::Inference).is_err());
    }
}
