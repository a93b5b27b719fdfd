//! `build.rs` finds the kernels' names, compiles what changed where NVRTC is there, and names file and line of what is wrong.

#[allow(dead_code)]
#[path = "../build.rs"]
mod build_script;

use build_script::images::{self, PROCESSORS, mistakes};
use build_script::kernel_module;
use build_script::nvrtc::Compiler;
use build_script::sources::{phases, with_includes};

const CONV2D: &str = r#"
// extern "C" __global__ void conv2d_commented_out(
/* extern "C" __global__ void conv2d_also_commented( */
__device__ float helper(float a, float b) { return a / b; }
extern "C" __global__ void conv2d_forward(const float* __restrict__ x, int n) {}
extern "C" __global__ void __launch_bounds__(256, 2)
conv2d_backward_weight(float* dweight) {}
extern "C" __global__ __launch_bounds__(128) void conv2d_backward_data (float* dx) {}
"#;

#[test]
fn phases_are_the_kernels_outside_comments() {
    let found: Vec<String> = phases("conv2d", CONV2D).unwrap().into_iter().collect();
    assert_eq!(found, ["backward_data", "backward_weight", "forward"]);
}

#[test]
fn kernels_that_cannot_be_launched_by_name_are_errors_with_file_and_line() {
    for (line, wanted) in [
        ("__global__ void conv2d_forward(float* x) {}", "without extern"),
        ("extern \"C\" __global__ void con2d_forward(float* x) {}", "\"con2d_forward\" is not named"),
        ("extern \"C\" __global__ void conv2d(float* x) {}", "\"conv2d\" is not named"),
        ("extern \"C\" __global__ void conv2d_3x3(float* x) {}", "\"conv2d_3x3\" is not named"),
        ("extern \"C\" __global__ void conv2d_module(float* x) {}", "not \"module\""),
        ("extern \"C\" __global__ int conv2d_forward(float* x) {}", "expected void"),
        ("extern \"C\" __global__ void conv2d_forward", "expected void"),
    ] {
        let text = phases("conv2d", &format!("// header\n\n{line}\n")).unwrap_err();
        assert!(text.starts_with("kernels/conv2d.cu:3: "), "{text}");
        assert!(text.contains(wanted), "{line}: {text}");
    }
}

#[test]
fn a_folder_of_kernels_becomes_a_module_of_constants() {
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(!kernel_module(root.path(), out.path(), false).unwrap().contains("mod"), "no kernels/ at all");

    let kernels = root.path().join("kernels");
    std::fs::create_dir(&kernels).unwrap();
    std::fs::write(kernels.join("conv2d.cu"), CONV2D).unwrap();
    std::fs::write(kernels.join("README.md"), "not a kernel\n").unwrap();
    let text = kernel_module(root.path(), out.path(), false).unwrap();
    assert!(text.contains("mod conv2d {"), "{text}");
    let constant = "const BACKWARD_WEIGHT: Kernel = Kernel { module: &MODULE, name: \"conv2d_backward_weight\" };";
    assert!(text.contains(constant), "{text}");
    assert!(!text.contains(&*root.path().to_string_lossy()), "a machine's path is compiled in: {text}");

    std::fs::write(kernels.join("Conv-3.cu"), "").unwrap();
    assert!(kernel_module(root.path(), out.path(), false).unwrap_err().starts_with("kernels/Conv-3.cu: "));
}

#[test]
fn includes_are_put_in_once_and_lines_are_counted_by_file() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.cuh"), "int a;\n").unwrap();
    std::fs::write(root.path().join("b.cuh"), "#include \"a.cuh\"\nint b;\n").unwrap();
    let source = "#include \"a.cuh\"\n#include \"b.cuh\"\nint c;\n";
    let text = with_includes(root.path(), "c.cu", source).unwrap();
    assert_eq!(text.matches("int a;").count(), 1);
    assert!(text.ends_with("int b;\n#line 3 \"/tweedie/kernels/c.cu\"\nint c;\n"), "{text}");
    let error = with_includes(root.path(), "c.cu", "\n#include \"no.cuh\"\n").unwrap_err();
    assert!(error.starts_with("kernels/c.cu(2): cannot read kernels/no.cuh"), "{error}");
}

#[test]
fn compiled_kernels_are_embedded_and_others_are_not() {
    let (root, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(root.path().join("kernels")).unwrap();
    std::fs::write(root.path().join("kernels/conv2d.cu"), CONV2D).unwrap();
    let bare = kernel_module(root.path(), out.path(), false).unwrap();
    assert!(bare.contains("COMPILED: bool = false") && bare.contains("ptx: None,"), "{bare}");
    let full = kernel_module(root.path(), out.path(), true).unwrap();
    assert!(full.contains("COMPILED: bool = true"), "{full}");
    assert!(full.contains("ptx: Some(include_str!(concat!(env!(\"OUT_DIR\"), \"/conv2d.compute_80\"))),"), "{full}");
    assert!(full.contains("(86, include_bytes!(concat!(env!(\"OUT_DIR\"), \"/conv2d.sm_86\"))),"), "{full}");
}

#[test]
fn mistakes_are_lines_that_name_the_kernels_own_line() {
    let log = "kernels/a.cu(7): error: identifier \"foo\" is undefined\n    foo();\n    ^\n\n1 error detected\n";
    assert_eq!(mistakes(log, "a", String::new), ["kernels/a.cu(7): error: identifier \"foo\" is undefined"]);
    let ptx = "\
.entry a_b {
    .loc 1 3 3
    .loc 2 9 16, function_name $L__info_string0, inlined_at 1 3 3
    mma.sync.nonsense;
    .loc 1 4 3
}
    .file 1 \"/tweedie/kernels/a.cu\"
    .file 2 \"/tweedie/kernels/common.cuh\"
";
    let log = "ptxas application ptx input, line 4; error   : Unknown modifier '.nonsense'\n\
               ptxas error   : Entry function 'a_b' uses too much shared data\n\
               ptxas fatal   : Ptx assembly aborted due to errors\n";
    let wanted = [
        "kernels/common.cuh(9): error: Unknown modifier '.nonsense'",
        "kernels/a.cu: error: Entry function 'a_b' uses too much shared data",
    ];
    assert_eq!(mistakes(log, "a", || ptx.into()), wanted);
    assert_eq!(mistakes("out of luck\n", "a", String::new), ["kernels/a.cu: out of luck"]);
}

/// A kernel file as it goes to the compiler.
fn file(stem: &str, body: &str) -> (String, String) {
    let source = format!(
        "#line 1 \"/tweedie/kernels/{stem}.cu\"\nextern \"C\" __global__ void {stem}_f(int* y) {{\n{body}\n}}\n"
    );
    (stem.into(), source)
}

#[test]
fn only_kernels_that_changed_are_compiled_again() {
    let Some(compiler) = Compiler::find(None).unwrap() else {
        eprintln!("not run: no NVRTC; name its library in TWEEDIE_NVRTC");
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let build = |files: &[(String, String)]| images::compile(&compiler, files, out.path()).map(|images| images.len());
    let mark = |stem: &str| std::fs::write(out.path().join(format!("{stem}.sm_80")), "kept").unwrap();
    let is_marked = |stem: &str| std::fs::read(out.path().join(format!("{stem}.sm_80"))).unwrap() == b"kept";
    let (one, two) = (file("one", "y[0] = 1;"), file("two", "y[0] = 2;"));
    assert_eq!(build(&[one.clone(), two.clone()]), Ok(2 * (1 + PROCESSORS.len())));
    mark("one");
    mark("two");
    assert_eq!(build(&[one, file("two", "y[0] = 3;")]), Ok(2 * (1 + PROCESSORS.len())));
    assert!(is_marked("one") && !is_marked("two"));

    // A mistake in C++ is found for every target and said once; one in inline PTX is found by the assembler.
    assert_eq!(
        build(&[file("two", "y[0] = x;")]),
        Err(vec!["kernels/two.cu(2): error: identifier \"x\" is undefined".into()])
    );
    let lines = build(&[file("two", "asm volatile(\"mma.sync.nonsense;\");")]).unwrap_err();
    assert!(lines.contains(&"kernels/two.cu(2): error: Unknown modifier '.nonsense'".into()), "{lines:?}");
    // What fails leaves no key behind that a later build would take for its own.
    mark("two");
    assert!(build(&[file("two", "asm volatile(\"mma.sync.nonsense;\");")]).is_err());
    assert_eq!(build(&[file("two", "y[0] = 4;")]), Ok(1 + PROCESSORS.len()));
    assert!(!is_marked("two"));
}
