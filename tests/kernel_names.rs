//! `build.rs` finds the kernels' names, and names the file when one cannot be launched.

#[allow(dead_code)]
#[path = "../build.rs"]
mod build_script;

use build_script::{kernel_module, phases, with_includes};

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
    assert!(!kernel_module(root.path(), out.path()).unwrap().contains("mod"), "no kernels/ at all");

    let kernels = root.path().join("kernels");
    std::fs::create_dir(&kernels).unwrap();
    std::fs::write(kernels.join("conv2d.cu"), CONV2D).unwrap();
    std::fs::write(kernels.join("README.md"), "not a kernel\n").unwrap();
    let text = kernel_module(root.path(), out.path()).unwrap();
    assert!(text.contains("mod conv2d {"), "{text}");
    let constant = "const BACKWARD_WEIGHT: Kernel = Kernel { module: &MODULE, name: \"conv2d_backward_weight\" };";
    assert!(text.contains(constant), "{text}");
    assert!(!text.contains(&*root.path().to_string_lossy()), "a machine's path is compiled in: {text}");

    std::fs::write(kernels.join("Conv-3.cu"), "").unwrap();
    assert!(kernel_module(root.path(), out.path()).unwrap_err().starts_with("kernels/Conv-3.cu: "));
}

#[test]
fn includes_are_put_in_once_and_lines_are_counted_by_file() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.cuh"), "int a;\n").unwrap();
    std::fs::write(root.path().join("b.cuh"), "#include \"a.cuh\"\nint b;\n").unwrap();
    let source = "#include \"a.cuh\"\n#include \"b.cuh\"\nint c;\n";
    let text = with_includes(root.path(), "c.cu", source).unwrap();
    assert_eq!(text.matches("int a;").count(), 1);
    assert!(text.ends_with("int b;\n#line 3 \"kernels/c.cu\"\nint c;\n"), "{text}");
    let error = with_includes(root.path(), "c.cu", "\n#include \"no.cuh\"\n").unwrap_err();
    assert!(error.starts_with("kernels/c.cu(2): cannot read kernels/no.cuh"), "{error}");
}
