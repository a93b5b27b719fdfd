//! Wrong flags, damaged files and hopeless settings: one clear line on stderr, the right exit code, nothing lost.

// A test that fails may panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use serde_json::{Value, json};
use std::path::Path;
use tweedie::io::TensorFile;
use tweedie::pipeline::Pipeline;

/// Runs `sample` on a model with one step.
fn sample(model: &Path, more: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.png");
    let mut args = vec!["--model", text(model)];
    for default in [["--steps", "1"], ["--out", text(&out)]] {
        if !more.contains(&default[0]) {
            args.extend(default);
        }
    }
    let outcome = run(SAMPLE, args.iter().chain(more));
    let written = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(
        written,
        usize::from(outcome.code == Some(0) && !more.contains(&"--out")),
        "a refused run writes nothing"
    );
    outcome
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&read(path)).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Rewrites the averaged weights of a model after `edit`.
fn edit_weights(model: &Path, edit: impl FnOnce(&mut Vec<Named>)) {
    let file = TensorFile::open(weights(model)).unwrap();
    let named = |name: String| {
        let (values, shape) = (file.f32s(&name).unwrap(), file.shape(&name).unwrap().to_vec());
        (name, values, shape)
    };
    let mut tensors: Vec<Named> = file.names().into_iter().map(named).collect();
    edit(&mut tensors);
    write_f32s(&weights(model), &tensors);
}

// ---- model folders ----

#[test]
fn truncated_weights_are_named() {
    let model = model_copy();
    let path = weights(model.path());
    let whole = read(&path);
    for length in [0, 4, 8, 1000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let parts = ["unet/diffusion_pytorch_model.safetensors", "not a whole safetensors file", "write it again"];
        sample(model.path(), &[]).refuses(1, &parts);
    }
    run(EVAL, ["--model", text(model.path())]).refuses(1, &["not a whole safetensors file"]);
}

#[test]
fn a_tampered_header_is_refused_and_never_panics() {
    let model = model_copy();
    let path = weights(model.path());
    let whole = read(&path);
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let tamper = |from: &str, to: &str| {
        let text = String::from_utf8(whole[8..header].to_vec()).unwrap();
        assert!(text.contains(from) && from.len() == to.len(), "{from}");
        let bytes = [&whole[..8], text.replacen(from, to, 1).as_bytes(), &whole[header..]].concat();
        std::fs::write(&path, bytes).unwrap();
        sample(model.path(), &[])
    };
    tamper("\"F32\"", "\"F64\"").refuses(1, &["not a whole safetensors file"]);
    tamper("\"F32\"", "\"XYZ\"").refuses(1, &["not a whole safetensors file"]);
    tamper("[0,", "[9,").refuses(1, &["not a whole safetensors file"]);
    tamper("\"conv_in.bias\"", "\"conv_in.bios\"").refuses(1, &["missing conv_in.bias", "unexpected conv_in.bios"]);
    // A length of the header beyond the file, and any one byte of the header.
    std::fs::write(&path, [&[255; 8], &whole[8..]].concat()).unwrap();
    sample(model.path(), &[]).refuses(1, &["not a whole safetensors file"]);
    let mut refused = 0;
    for at in (0..header).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, bytes).unwrap();
        refused += usize::from(Pipeline::load(model.path()).is_err());
    }
    assert!(refused > header / 7 * 9 / 10, "{refused} of {}", header / 7);
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let model = model_copy();
    edit_weights(model.path(), |tensors| {
        let tensor = tensors.iter_mut().find(|(name, ..)| name == "conv_in.weight").unwrap();
        assert_eq!(tensor.2, [8, 1, 3, 3]);
        tensor.2 = vec![1, 8, 3, 3];
    });
    let parts = ["diffusion_pytorch_model.safetensors", "\"conv_in.weight\"", "[1, 8, 3, 3]", "wants [8,1,3,3]"];
    sample(model.path(), &[]).refuses(1, &parts);
}

#[test]
fn missing_and_unexpected_tensors_are_both_listed() {
    let model = model_copy();
    edit_weights(model.path(), |tensors| {
        tensors.retain(|(name, ..)| name != "conv_out.bias" && name != "mid_block.resnets.0.norm1.weight");
        tensors.push(("stowaway.weight".into(), vec![1.0], vec![1]));
    });
    // The missing ones come in the network's order.
    let parts =
        ["config.json", "missing mid_block.resnets.0.norm1.weight, conv_out.bias", "unexpected stowaway.weight"];
    sample(model.path(), &[]).refuses(1, &parts);
}

#[test]
fn weights_that_are_not_finite_are_found_before_a_picture_is_written() {
    let model = model_copy();
    edit_weights(model.path(), |tensors| tensors[0].1.fill(f32::NAN));
    sample(model.path(), &["--class", "3"]).refuses(1, &["not finite"]);
}

#[test]
fn network_and_scheduler_settings_that_are_unknown_or_not_supported_are_named() {
    let model = model_copy();
    let (unet, scheduler) =
        (model.path().join("unet/config.json"), model.path().join("scheduler/scheduler_config.json"));
    let rows: [(&Path, &str, Value, &[&str]); 20] = [
        (&unet, "norm_num_group", json!(4), &["unet config", "\"norm_num_group\"", "did you mean \"norm_num_groups\""]),
        (&unet, "act_fn", json!("gelu"), &["act_fn = \"gelu\" is not supported", "silu"]),
        (&unet, "down_block_types", json!(["CrossAttnDownBlock2D", "DownBlock2D"]), &["CrossAttnDownBlock2D"]),
        (&unet, "block_out_channels", json!([8]), &["block_out_channels has 1 levels"]),
        (&unet, "block_out_channels", json!([8, 12]), &["config.json", "missing", "conv_shortcut"]),
        (&unet, "block_out_channels", json!([8, 1u64 << 62]), &["block_out_channels = 4611686018427387904"]),
        (&unet, "block_out_channels", json!([1u64 << 62, 8]), &["block_out_channels = 4611686018427387904"]),
        (&unet, "layers_per_block", json!(1u64 << 60), &["layers_per_block = 1152921504606846976"]),
        (&unet, "layers_per_block", json!(0), &["layers_per_block = 0: expected 1 to"]),
        (&unet, "in_channels", json!(-1), &["in_channels = -1", "whole number"]),
        (&unet, "in_channels", json!(u64::MAX), &["in_channels = 18446744073709551615"]),
        (&unet, "sample_size", json!([8, 0]), &["sample_size = 8x0"]),
        (&unet, "num_class_embeds", json!(0), &["num_class_embeds = 0"]),
        (&unet, "num_class_embeds", json!(12), &["\"class_embedding.weight\" has shape [11, 32]", "wants [12,32]"]),
        (&unet, "norm_eps", json!("small"), &["norm_eps = \"small\"", "a number"]),
        (&scheduler, "solver_order", json!(2), &["scheduler config", "\"solver_order\" is not supported"]),
        (&scheduler, "beta_schedule", json!("laplace"), &["beta_schedule \"laplace\" is unknown"]),
        (&scheduler, "prediction_type", json!("epsilom"), &["\"epsilom\"", "did you mean \"epsilon\""]),
        (&scheduler, "num_train_timesteps", json!(0), &["num_train_timesteps"]),
        (&scheduler, "num_train_timesteps", json!(1u64 << 60), &["num_train_timesteps = 1152921504606846976"]),
    ];
    for (path, field, value, parts) in rows {
        let before = read(path);
        edit_json(path, |config| config[field] = value);
        let outcome = sample(model.path(), &[]);
        outcome.refuses(1, parts);
        std::fs::write(path, before).unwrap();
    }
    sample(model.path(), &[]).refuses_nothing();
    for path in [&unet, &scheduler, &model.path().join("tweedie.json"), &model.path().join("model_index.json")] {
        let before = read(path);
        std::fs::write(path, &before[..before.len() / 2]).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        sample(model.path(), &[]).refuses(1, &[name, "not valid JSON"]);
        std::fs::write(path, before).unwrap();
    }
    for image_shape in [json!([0, 8, 1]), json!([1u64 << 40, 1u64 << 40, 1]), json!([8, 8, 3]), json!([8, 8])] {
        edit_json(&model.path().join("tweedie.json"), |own| own["image_shape"] = image_shape);
        let outcome = sample(model.path(), &[]);
        outcome.refuses(1, &["tweedie.json"]);
    }
}

#[test]
fn a_folder_that_is_no_model_says_what_a_model_is() {
    let model = model_copy();
    let what = "a model is a diffusers pipeline folder, as `train` writes it";
    std::fs::remove_file(model.path().join("model_index.json")).unwrap();
    sample(model.path(), &[]).refuses(1, &[text(model.path()), "model_index.json is missing", what]);
    let none = model.path().join("none");
    sample(&none, &[]).refuses(1, &[text(&none), "the folder does not exist", what]);
    run(EVAL, ["--model", text(&none)]).refuses(1, &[text(&none), "the folder does not exist", what]);
    let model = model_copy();
    std::fs::remove_file(weights(model.path())).unwrap();
    std::fs::remove_file(checkpoint(model.path())).unwrap();
    let parts = ["diffusion_pytorch_model.safetensors is missing", "the model has no weights"];
    sample(model.path(), &[]).refuses(1, &parts);
    std::fs::remove_file(model.path().join("unet/config.json")).unwrap();
    sample(model.path(), &[]).refuses(1, &["cannot read", "unet/config.json"]);
}

// ---- flags of sample and eval ----

#[test]
fn flags_of_sample_out_of_range_are_named_with_what_is_allowed() {
    let rows: &[(&[&str], &[&str])] = &[
        (&["--class", "10"], &["--class 10", "classes 0 to 9", "none for the null class"]),
        (&["--class", "-1"], &["--class -1", "a number from 0", "none"]),
        (&["--class", "x"], &["--class x", "a number from 0", "none"]),
        (&["--steps", "0"], &["--steps 0", "choose 1 to 1000"]),
        (&["--steps", "1001"], &["--steps 1001", "choose 1 to 1000"]),
        (&["--sampler", "ddpm", "--steps", "1001"], &["--steps 1001", "choose 1 to 1000"]),
        (&["--sampler", "ddim", "--eta", "2"], &["--eta 2", "0 (deterministic) to 1 (as DDPM)"]),
        (&["--sampler", "ddim", "--eta", "-0.5"], &["--eta -0.5", "0 (deterministic) to 1 (as DDPM)"]),
        (&["--sampler", "ddim", "--eta", "nan"], &["--eta NaN"]),
        (&["--eta", "0.5"], &["--eta", "no meaning for --sampler ddpm", "use --sampler ddim"]),
        (&["--recompute-eps"], &["--recompute-eps", "no meaning for --sampler ddpm"]),
        (
            &["--sampler", "ddmi"],
            &["sampler \"ddmi\" is unknown", "known: ddpm, ddim, euler", "did you mean \"ddim\"?"],
        ),
        (&["--count", "0"], &["--count 0", "at least 1"]),
        (&["--count", "18446744073709551615"], &["--count 18446744073709551615", "at most 33554432 images of 8x8x1"]),
        (&["--batch", "0"], &["--batch 0", "at least 1"]),
        (&["--weights", "best"], &["--weights best", "ema", "raw"]),
        (&["--device", "tpu"], &["--device tpu", "expected auto, cpu, cuda or cuda:INDEX", "use --device cpu"]),
        (&["--device", "cuda:x"], &["--device cuda:x", "expected auto, cpu, cuda or cuda:INDEX"]),
        (&["--precision", "f8"], &["--precision f8", "expected f32 or bf16"]),
        (&["--threads", "100000"], &["--threads 100000", "256"]),
        (&["--out", "x.jpg"], &["--out x.jpg", ".png, .gif or .safetensors"]),
        (&["--out", "x"], &["--out x:", ".png, .gif or .safetensors"]),
        (&["--out", "no/such/x.png"], &["--out no/such/x.png", "the folder no/such does not exist"]),
        (&["--out", "Cargo.toml/x.png"], &["--out Cargo.toml/x.png", "Cargo.toml is a file"]),
        (&["--trajectory", "x.png"], &["--trajectory x.png", ".safetensors or .gif"]),
        (&["--trajectory", "no/x.gif"], &["--trajectory no/x.gif", "the folder no does not exist"]),
    ];
    for (flags, parts) in rows {
        sample(model(), flags).refuses(2, parts);
    }
    sample(model(), &["--count", "-1"]).refuses_the_flags(&["-1"]);
    sample(model(), &["--stepps", "1"]).refuses_the_flags(&["--stepps", "--steps"]);
}

#[test]
fn a_gpu_that_cannot_be_used_says_what_is_missing() {
    for program in [SAMPLE, EVAL] {
        let outcome = run(program, ["--model", text(model()), "--device", "cuda:99"]);
        outcome.refuses(1, &["--device cuda", "use --device cpu"]);
        let reasons = ["no NVIDIA driver found (libcuda did not load)", "GPUs on this machine, counted from 0"];
        assert!(reasons.iter().any(|reason| outcome.stderr.contains(reason)), "{outcome:?}");
    }
    run(TRAIN, ["--device", "cuda:99"]).refuses(1, &["--device cuda", "use --device cpu"]);
}

#[test]
fn starts_and_noise_that_do_not_fit_are_named_with_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.safetensors");
    let tensor = |name: &str, shape: [usize; 4]| (name.to_string(), vec![0.5; shape.iter().product()], shape.to_vec());
    let init = ["--count", "2", "--init", text(&path)];
    write_f32s(&path, &[tensor("x_T", [2, 8, 4, 1])]);
    sample(model(), &init).refuses(2, &["--init: x_T wants [2,8,8,1]", "got [2,8,4,1]"]);
    write_f32s(&path, &[tensor("x_T", [3, 8, 8, 1])]);
    sample(model(), &init).refuses(2, &["--init: x_T wants [2,8,8,1]", "--count", "got [3,8,8,1]"]);
    write_f32s(&path, &[("x_T".into(), vec![0.0; 2], vec![1, 1, 1, 1, 1, 2])]);
    sample(model(), &init).refuses(1, &["\"x_T\" has 6 axes"]);
    write_f32s(&path, &[tensor("x", [2, 8, 8, 1])]);
    sample(model(), &init).refuses(1, &["in.safetensors", "\"x_T\" is missing", "it holds x"]);
    let mut spoilt = tensor("x_T", [2, 8, 8, 1]);
    spoilt.1[5] = f32::NAN;
    write_f32s(&path, &[spoilt]);
    sample(model(), &init).refuses(1, &["not finite"]);
    let none = folder.path().join("none.safetensors");
    sample(model(), &["--init", text(&none)]).refuses(1, &["cannot open", text(&none)]);

    let noise = ["--count", "2", "--noise", text(&path), "--steps", "3"];
    write_f32s(&path, &["z_0000", "z_0001"].map(|name| tensor(name, [2, 8, 8, 1])));
    sample(model(), &noise).refuses(2, &["--noise: 3 steps want z_0000 to z_0002", "the file has 2"]);
    write_f32s(
        &path,
        &[tensor("z_0000", [2, 8, 8, 1]), tensor("z_0001", [2, 8, 8, 1]), tensor("z_0002", [1, 8, 8, 2])],
    );
    sample(model(), &noise).refuses(2, &["--noise: z_0002 wants [2,8,8,1]", "got [1,8,8,2]"]);
    write_f32s(&path, &[tensor("z_0001", [2, 8, 8, 1])]);
    sample(model(), &noise).refuses(1, &["\"z_0000\" is missing"]);
}

#[test]
fn eval_names_what_it_cannot_measure() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let eval = |more: &[&str]| run(EVAL, ["--model", text(model())].iter().chain(more));
    eval(&["--metric", "los"]).refuses(2, &["metric \"los\" is unknown", "did you mean \"loss\""]);
    eval(&["--count", "0"]).refuses(2, &["--count 0", "at least 1"]);
    eval(&["--data", "digit"]).refuses(2, &["data set \"digit\" is unknown", "did you mean \"digits\"?"]);
    eval(&["--out", text(&output)]).refuses_the_flags(&["--forward"]);
    eval(&["--forward", text(&input)]).refuses_the_flags(&["--out"]);
    let data = folder.path().join("data");
    write_idx(&data, 20, 0);
    let images = data.join("train-images-idx3-ubyte");
    let mut bytes = read(&images);
    // 40 images of 4x8.
    bytes[7] = 40;
    bytes[11] = 4;
    std::fs::write(&images, bytes).unwrap();
    std::fs::remove_file(data.join("train-labels-idx1-ubyte")).unwrap();
    eval(&["--data", text(&data)]).refuses(2, &["images of [4, 8, 1]", "the model wants [8, 8, 1]"]);
    write_idx(&data, 20, 0);
    std::fs::remove_file(data.join("train-labels-idx1-ubyte")).unwrap();
    eval(&["--data", text(&data)]).refuses(1, &["the model wants class labels, it has none"]);

    let forward = ["--forward", text(&input), "--out", text(&output)];
    let x = ("x".to_string(), vec![0.0; 2 * 64], vec![2, 8, 8, 1]);
    write_f32s(&input, std::slice::from_ref(&x));
    eval(&forward).refuses(1, &["\"t\" is missing"]);
    write_f32s(&input, &[x.clone(), ("t".into(), vec![1.0; 3], vec![3])]);
    eval(&forward).refuses(1, &["unet: 2 images want 2 times, got 3"]);
    write_f32s(&input, &[x, ("t".into(), vec![1.0; 2], vec![2])]);
    eval(&forward).refuses(2, &["class_labels: the model wants 2 labels from 0 to 10, got none"]);
    write_f32s(&input, &[("x".into(), vec![0.0; 128], vec![2, 4, 8, 2]), ("t".into(), vec![1.0; 2], vec![2])]);
    eval(&forward).refuses(1, &["unet: x wants [n,h,w,1]", "got [2,4,8,2]"]);
    let png = folder.path().join("out.png");
    eval(&["--forward", text(&input), "--out", text(&png)]).refuses(2, &["--forward writes .safetensors"]);
    assert!(!output.exists() && !png.exists());
}

// ---- training ----

/// Runs `train` for a step in a folder that must not appear.
fn train(more: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let outcome = run(TRAIN, ["--out", text(&out)].iter().chain(more));
    assert!(!out.exists(), "a refused run leaves a folder: {outcome:?}");
    outcome
}

#[test]
fn training_settings_that_cannot_be_are_named_with_what_is_allowed() {
    let rows: &[(&[&str], &[&str])] = &[
        (&["--preset", "digit"], &["preset \"digit\" is unknown", "known: digits, small", "did you mean \"digits\"?"]),
        (&["--set", "dropot=0.1"], &["--set: \"dropot\" is not a setting", "did you mean \"dropout\"?"]),
        (&["--set", "dropout"], &["--set dropout", "expected key=value"]),
        (&["--set", "dropout=1"], &["dropout = 1", "below 1"]),
        (&["--set", "batch=many"], &["settings: ", "\"many\"", "`batch`"]),
        (&["--set", "steps=-1"], &["settings: ", "-1", "`steps`"]),
        (&["--set", "t_min=nan"], &["t_min = NaN: expected at least 0 and below 1"]),
        (&["--set", "t_min=-0.5"], &["t_min = -0.5: expected at least 0 and below 1"]),
        (&["--set", "lr_schedule=cosin"], &["lr_schedule \"cosin\"", "did you mean \"cosine\"?"]),
        (&["--set", "norm_num_groups=5"], &["norm_num_groups = 5 does not divide 32 channels"]),
        (&["--set", "block_out_channels=[8,8,8]"], &["attention_levels has 2 entries, block_out_channels 3"]),
        (&["--batch", "1438"], &["--batch 1438", "\"digits\" has 1437 training images", "at most that"]),
        (&["--batch", "0"], &["--batch 0", "at least 1"]),
        (&["--steps", "0"], &["--steps 0", "expected 1 to"]),
        (&["--lr", "-1"], &["--lr -1", "above 0"]),
        (&["--lr", "nan"], &["--lr NaN", "above 0"]),
        (&["--save-every", "0"], &["--save-every 0", "at least 1"]),
        (&["--device", "tpu"], &["--device tpu", "expected auto, cpu, cuda"]),
        (&["--precision", "f8"], &["--precision f8", "expected f32 or bf16"]),
        (&["--data", "digit"], &["data set \"digit\" is unknown", "known: digits", "did you mean \"digits\"?"]),
        (&["--data", "no/such/folder"], &["\"no/such/folder\"", "IDX images", "does not exist"]),
    ];
    for (flags, parts) in rows {
        train(flags).refuses(2, parts);
    }
    train(&["--config", "no/such.toml"]).refuses(1, &["cannot read no/such.toml"]);
}

#[test]
fn malformed_idx_files_are_named_with_expected_and_found_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let data = ["--data", text(folder.path())];
    let (images, labels) =
        (folder.path().join("train-images-idx3-ubyte"), folder.path().join("train-labels-idx1-ubyte"));
    train(&data).refuses(1, &[text(folder.path()), "images"]);
    write_idx(folder.path(), 20, 0);
    let whole = read(&images);
    std::fs::write(&images, &whole[..whole.len() - 9]).unwrap();
    let expected = format!("expected {} bytes, got {}", whole.len(), whole.len() - 9);
    train(&data).refuses(1, &[text(&images), &expected, "cut short"]);
    for length in [0, 3, 10] {
        std::fs::write(&images, &whole[..length]).unwrap();
        train(&data).refuses(1, &[text(&images), &format!("got {length}"), "cut short"]);
    }
    std::fs::write(&images, [&whole[..], &[0]].concat()).unwrap();
    train(&data).refuses(1, &[text(&images), "1 bytes more"]);
    std::fs::write(&images, [&[0, 0, 8, 3], &[255; 12][..]].concat()).unwrap();
    train(&data).refuses(1, &[text(&images), "beyond any file"]);
    std::fs::write(&images, b"GIF89a, not IDX").unwrap();
    train(&data).refuses(1, &[text(&images), "expected an IDX file"]);
    std::fs::write(&images, &whole).unwrap();
    let few = read(&labels)[..8 + 19].to_vec();
    std::fs::write(&labels, [&few[..7], &[19], &few[8..]].concat()).unwrap();
    train(&data).refuses(1, &["19 labels", "20 images"]);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_step_and_the_op() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let wild = ["--steps", "20", "--lr", "1e30", "--set", "grad_clip=1e30", "--set", "warmup_steps=0"];
    // The tiny network's own settings have a warm-up; the later one wins.
    let outcome = run(TRAIN, tiny_args(&out, &wild));
    let parts = ["step 1: loss is ", "first non-finite ", " came from ", " at ", "last finite loss 1.", "smaller --lr"];
    outcome.refuses(1, &parts);
    sample(&out, &[]).refuses_nothing();
    assert_eq!(saved_steps(&out), 0, "the checkpoint from before the first update");
    assert_eq!(column(&out, "loss").len(), 1, "the step that was done is logged, the one that failed is not");
}

#[test]
fn weights_that_overflow_never_replace_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let wild = ["--steps", "20", "--save-every", "1", "--lr", "1e39", "--set", "warmup_steps=0"];
    run(TRAIN, tiny_args(&out, &wild))
        .refuses(1, &["step 1: ", "is not finite", "the last checkpoint is as it was", "smaller --lr"]);
    sample(&out, &[]).refuses_nothing();
    sample(&out, &["--weights", "raw"]).refuses_nothing();
}

#[test]
fn a_folder_that_cannot_be_written_is_named_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let below = file.join("run");
    let outcome = run(TRAIN, tiny_args(&below, &["--steps", "1"]));
    outcome.refuses(1, &["cannot create the folder", text(&below)]);
    let outcome = run(TRAIN, tiny_args(&file, &["--steps", "1"]));
    outcome.refuses(2, &["--out ", text(&file), "is a file; name a folder"]);
    assert_eq!(read(&file), b"precious");
    // The picture's name is taken by a folder.
    let taken = folder.path().join("taken.png");
    std::fs::create_dir(&taken).unwrap();
    sample(model(), &["--out", text(&taken)]).refuses(1, &["cannot ", "taken.png"]);
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "no temporary stays");
}
