//! Flags of `sample` that guide, fill in, colour and interpolate.

use super::check_machine;
use crate::denoiser::guidance::Strength;
use crate::error::{Error, Result, unknown_name};
use crate::io::image::{Picture, from_u8, read_png};
use crate::nn::Precision;
use crate::pipeline::{ClassifierPipeline, Guidance, Known, Pipeline, Weights};
use crate::sampler::Resampling;
use crate::tensor::Tensor;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Guidance, inpainting and colourisation.
#[derive(Args, Debug, Default)]
pub struct EditArgs {
    /// Scale w of guidance: 1 plain, more exaggerates the class, 0 without it
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    pub guidance_scale: Option<f64>,
    /// The same counted from 0, as Ho & Salimans have it: W − 1
    #[arg(long, value_name = "W", allow_negative_numbers = true, conflicts_with = "guidance_scale")]
    pub guidance_weight: Option<f64>,
    /// classifier_free, classifier (by the gradient of --classifier) or autoguidance (by the weaker model of --guide) [default: what the
    /// other flags ask for]
    #[arg(long, value_name = "NAME")]
    pub guidance: Option<String>,
    /// Guide only where sigma/alpha lies between these: LOW:HIGH, either may be left out
    #[arg(long, value_name = "LOW:HIGH")]
    pub guidance_interval: Option<String>,
    /// How much of the contrast that guidance adds is taken back, 0 to 1
    #[arg(long, value_name = "PHI", allow_negative_numbers = true)]
    pub guidance_rescale: Option<f64>,
    /// Model folder of a weaker model to leave behind (autoguidance)
    #[arg(long, value_name = "DIR")]
    pub guide: Option<PathBuf>,
    /// Model folder of a classifier of noisy images, as train --task classifier writes it
    #[arg(long, value_name = "DIR")]
    pub classifier: Option<PathBuf>,
    /// PNG whose part under --mask is filled in; the rest stays, bit for bit
    #[arg(long, value_name = "FILE.png", requires = "mask")]
    pub inpaint: Option<PathBuf>,
    /// What is filled in: a PNG (white is filled, black kept), or left, right, top, bottom, center, all, none, box:X,Y,WIDTH,HEIGHT
    #[arg(long, value_name = "FILE|NAME")]
    pub mask: Option<String>,
    /// PNG that is coloured: its grey levels, the mean of a pixel's channels, are kept
    #[arg(long, value_name = "FILE.png", conflicts_with = "inpaint")]
    pub colorize: Option<PathBuf>,
    /// The strip of --count samples from one end to the other, spherical in x_T; an end is a seed or a PNG, which is encoded
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["init", "noise", "encode", "inpaint", "colorize"])]
    pub interpolate: Vec<String>,
    /// Take each stretch of --jump steps this often, with the noise put back between (RePaint) [default: 1]
    #[arg(long, value_name = "TIMES")]
    pub resample: Option<usize>,
    /// Steps of a stretch [default: 1]
    #[arg(long, value_name = "STEPS", requires = "resample")]
    pub jump: Option<usize>,
}

impl EditArgs {
    /// The guidance that the flags ask for.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name, scale or interval that is none, or flags that do not go together; those of loading a guide.
    pub fn guidance(&self, device: &str, precision: Precision) -> Result<Guidance> {
        const NAMES: [&str; 3] = ["classifier_free", "classifier", "autoguidance"];
        let scale = self.guidance_scale.or(self.guidance_weight.map(|w| w + 1.0));
        if self.classifier.is_some() && self.guide.is_some() {
            return Err(Error::Usage("--classifier and --guide: guide in two ways; choose one".into()));
        }
        let kind = match (&self.guidance, &self.classifier, &self.guide) {
            (Some(name), ..) if !NAMES.contains(&name.as_str()) => {
                return Err(unknown_name("guidance", name, &NAMES));
            }
            (Some(name), ..) => Some(name.as_str()),
            (None, Some(_), _) => Some("classifier"),
            (None, None, Some(_)) => Some("autoguidance"),
            (None, None, None) => scale.map(|_| "classifier_free"),
        };
        let given = [
            ("--guidance-interval", self.guidance_interval.is_some()),
            ("--guidance-rescale", self.guidance_rescale.is_some()),
            ("--guidance", self.guidance.is_some()),
            ("--classifier", self.classifier.is_some()),
            ("--guide", self.guide.is_some()),
        ];
        // Bayes' rule, where a classifier is given and nothing else is said.
        let scale = scale.or((kind == Some("classifier") && self.classifier.is_some()).then_some(1.0));
        let Some(scale) = scale else {
            return match given.iter().find(|(_, given)| *given) {
                Some((flag, _)) => {
                    Err(Error::Usage(format!("{flag}: says nothing without --guidance-scale W; add it")))
                }
                None => Ok(Guidance::None),
            };
        };
        let strength = Strength { scale, interval: self.guidance_interval.as_deref().map(interval).transpose()? };
        strength.check()?;
        let rescale = self.guidance_rescale.unwrap_or(0.0);
        match (kind, &self.classifier, &self.guide) {
            (Some("classifier"), Some(_), _) if self.guidance_rescale.is_some() => Err(Error::Usage(
                "--guidance-rescale: has no meaning for --guidance classifier, which has no second estimate".into(),
            )),
            (Some("classifier"), Some(folder), None) => {
                let classifier = ClassifierPipeline::load(folder, Weights::Ema)?;
                let classifier = classifier.to_device(check_machine(device, precision)?)?.with_precision(precision);
                Ok(Guidance::Classifier { classifier: Arc::new(classifier), strength })
            }
            (Some("classifier"), None, _) => Err(Error::Usage(
                "--guidance classifier: wants the classifier; add --classifier DIR, trained with train --task classifier".into(),
            )),
            (Some("autoguidance"), None, Some(folder)) => {
                let guide = Pipeline::load(folder)?.to_device(check_machine(device, precision)?)?;
                Ok(Guidance::Auto { guide: Arc::new(guide.with_precision(precision)), strength, rescale })
            }
            (Some("autoguidance"), None, None) => {
                Err(Error::Usage("--guidance autoguidance: wants the weaker model; add --guide DIR".into()))
            }
            (_, Some(_), _) => Err(Error::Usage("--classifier: belongs to --guidance classifier".into())),
            (_, None, Some(_)) => Err(Error::Usage("--guide: belongs to --guidance autoguidance".into())),
            (_, None, None) => Ok(Guidance::ClassifierFree { strength, rescale }),
        }
    }

    /// What is known of the samples, and the picture to show beside them, `[1, h, w, c]`; for images `[h, w, c]`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a picture or mask that does not fit the model; [`Error::Io`] and [`Error::Data`] for a file that cannot be read.
    pub fn known(&self, shape: [usize; 3]) -> Result<Option<(Known, Tensor)>> {
        let [h, w, c] = shape;
        match (&self.inpaint, &self.mask, &self.colorize) {
            (Some(path), Some(mask), _) => {
                let picture = read_picture(path, "--inpaint", shape, &[c])?;
                let x0 = Tensor::from_slice(&from_u8(&picture), [1, h, w, c])?;
                let fill = mask_of(mask, [h, w])?;
                let known: Vec<f32> = fill.iter().flat_map(|fill| vec![f32::from(u8::from(!fill)); c]).collect();
                let mask = Tensor::from_slice(&known, [1, h, w, c])?;
                // The part that is filled is shown grey.
                let shown = crate::ops::select(&mask, &x0, &Tensor::zeros(x0.shape(), x0.dtype(), x0.device())?)?;
                Ok(Some((Known::Elements { x0, mask }, shown)))
            }
            (None, Some(_), _) => {
                Err(Error::Usage("--mask: says what of a picture is filled in; add --inpaint FILE.png".into()))
            }
            (_, _, Some(path)) => {
                if c < 2 {
                    return Err(Error::Usage(
                        "--colorize: the model draws grey pictures; use a model of colours".into(),
                    ));
                }
                let picture = read_picture(path, "--colorize", shape, &[1, c])?;
                let grey: Vec<f32> = from_u8(&picture)
                    .chunks_exact(picture.channels)
                    .map(|pixel| pixel.iter().sum::<f32>() / pixel.len() as f32)
                    .collect();
                let shown: Vec<f32> = grey.iter().flat_map(|grey| vec![*grey; c]).collect();
                let levels = Tensor::from_slice(&grey, [1, h, w, 1])?;
                Ok(Some((Known::grey(&levels, c)?, Tensor::from_slice(&shown, [1, h, w, c])?)))
            }
            _ => Ok(None),
        }
    }

    /// How often stretches of steps are taken.
    ///
    /// # Errors
    /// [`Error::Usage`] for 0, or where nothing is known that the rest should agree with.
    pub fn resampling(&self) -> Result<Resampling> {
        let usual = Resampling::default();
        let resampling =
            Resampling { times: self.resample.unwrap_or(usual.times), jump: self.jump.unwrap_or(usual.jump) };
        for (flag, value) in [("--resample", resampling.times), ("--jump", resampling.jump)] {
            if value == 0 {
                return Err(Error::Usage(format!("{flag} 0: expected at least 1")));
            }
        }
        if self.resample.is_some() && self.inpaint.is_none() && self.colorize.is_none() {
            return Err(Error::Usage(
                "--resample: brings known and drawn parts together; add --inpaint or --colorize".into(),
            ));
        }
        Ok(resampling)
    }
}

/// `LOW:HIGH`, both numbers from 0; either may be empty.
fn interval(text: &str) -> Result<(f64, f64)> {
    let wrong =
        || Error::Usage(format!("--guidance-interval {text}: expected LOW:HIGH, ratios sigma/alpha such as 0.2:5"));
    let (low, high) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str, usual: f64| match text.trim() {
        "" => Ok(usual),
        text => text.parse().map_err(|_| wrong()),
    };
    Ok((number(low, 0.0)?, number(high, f64::INFINITY)?))
}

/// A picture of the model's size, with one of these numbers of channels.
pub(super) fn read_picture(path: &Path, flag: &str, [h, w, _]: [usize; 3], channels: &[usize]) -> Result<Picture> {
    let shown = path.display();
    if !path.exists() {
        return Err(Error::Usage(format!("{flag} {shown}: no such file; name a PNG picture")));
    }
    let picture = read_png(path)?;
    if [picture.height, picture.width] != [h, w] {
        let (width, height) = (picture.width, picture.height);
        return Err(Error::Usage(format!(
            "{flag} {shown}: the model draws {w}x{h} pixels, the picture has {width}x{height}"
        )));
    }
    if !channels.contains(&picture.channels) {
        let want = channels.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
        let got = picture.channels;
        return Err(Error::Usage(format!(
            "{flag} {shown}: the model wants {want} channels (1 grey, 3 colours), the picture has {got}"
        )));
    }
    Ok(picture)
}

/// Which pixels are filled in.
fn mask_of(text: &str, [h, w]: [usize; 2]) -> Result<Vec<bool>> {
    let area = |x: std::ops::Range<usize>, y: std::ops::Range<usize>| {
        (0..h * w).map(|at| x.contains(&(at % w)) && y.contains(&(at / w))).collect()
    };
    match text {
        "left" => return Ok(area(0..w / 2, 0..h)),
        "right" => return Ok(area(w / 2..w, 0..h)),
        "top" => return Ok(area(0..w, 0..h / 2)),
        "bottom" => return Ok(area(0..w, h / 2..h)),
        "center" => return Ok(area(w / 4..w - w / 4, h / 4..h - h / 4)),
        "all" => return Ok(area(0..w, 0..h)),
        "none" => return Ok(area(0..0, 0..0)),
        _ => {}
    }
    if let Some(numbers) = text.strip_prefix("box:") {
        let wrong = || Error::Usage(format!("--mask {text}: expected box:X,Y,WIDTH,HEIGHT within {w}x{h} pixels"));
        let numbers: Vec<usize> =
            numbers.split(',').map(|n| n.trim().parse().map_err(|_| wrong())).collect::<Result<_>>()?;
        return match numbers[..] {
            [_, _, width, height] if width == 0 || height == 0 => {
                Err(Error::Usage(format!("--mask {text}: holds no pixel")))
            }
            [x, y, width, height]
                if x.checked_add(width).is_some_and(|end| end <= w)
                    && y.checked_add(height).is_some_and(|end| end <= h) =>
            {
                Ok(area(x..x + width, y..y + height))
            }
            _ => Err(wrong()),
        };
    }
    let path = Path::new(text);
    if !path.exists() && path.extension().is_none() {
        return Err(unknown_name(
            "mask",
            text,
            &["left", "right", "top", "bottom", "center", "all", "none", "box:X,Y,WIDTH,HEIGHT"],
        ));
    }
    let picture = read_png(path)?;
    if [picture.height, picture.width] != [h, w] {
        let (width, height) = (picture.width, picture.height);
        return Err(Error::Usage(format!("--mask {text}: the picture has {w}x{h} pixels, the mask {width}x{height}")));
    }
    let fill = |(at, pixel): (usize, &[u8])| match pixel {
        pixel if pixel.iter().all(|level| *level == 255) => Ok(true),
        pixel if pixel.iter().all(|level| *level == 0) => Ok(false),
        pixel => Err(Error::Usage(format!(
            "--mask {text}: pixel ({}, {}) is {pixel:?}; expected white (filled in) or black (kept) alone",
            at % w,
            at / w
        ))),
    };
    picture.pixels.chunks_exact(picture.channels).enumerate().map(fill).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_masks_cover_what_they_say() {
        let rows = |text: &str| {
            let mask = mask_of(text, [4, 5]).unwrap();
            mask.chunks(5)
                .map(|row| row.iter().map(|fill| if *fill { '#' } else { '.' }).collect())
                .collect::<Vec<String>>()
        };
        assert_eq!(rows("left"), ["##...", "##...", "##...", "##..."]);
        assert_eq!(rows("right"), ["..###", "..###", "..###", "..###"]);
        assert_eq!(rows("bottom"), [".....", ".....", "#####", "#####"]);
        assert_eq!(rows("center"), [".....", ".###.", ".###.", "....."]);
        assert_eq!(rows("box:3,1,2,2"), [".....", "...##", "...##", "....."]);
        for bad in ["box:4,0,2,1", "box:1,2,3", "box:a,0,1,1", "box:18446744073709551615,0,2,1", "lefft"] {
            assert!(mask_of(bad, [4, 5]).is_err(), "{bad}");
        }
    }

    #[test]
    fn intervals_may_lack_an_end() {
        assert_eq!(interval("0.5:2").unwrap(), (0.5, 2.0));
        assert_eq!(interval(":2").unwrap(), (0.0, 2.0));
        assert_eq!(interval("0.5:").unwrap(), (0.5, f64::INFINITY));
        assert!(interval("3").is_err() && interval("a:b").is_err());
    }
}
