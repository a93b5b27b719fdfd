//! The tableau of Dormand and Prince (1980), orders 5 and 4, and how the next step follows from an error.

/// Nodes, and the rows of the tableau below the first; the last row is also the fifth-order solution.
pub(crate) const NODES: [f64; 7] = [0.0, 0.2, 0.3, 0.8, 8.0 / 9.0, 1.0, 1.0];
pub(crate) const STAGES: [&[f64]; 6] = [
    &[0.2],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// Fifth order minus fourth.
pub(crate) const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339_200.0, 22.0 / 525.0, -1.0 / 40.0];

/// Attempts of one sample before giving up.
pub(crate) const ATTEMPTS: usize = 10_000;

/// The step after one of size `step` whose error was `size` times its tolerance; a size of at most 1 is good.
pub(crate) fn next_step(step: f64, size: f64) -> f64 {
    step * (0.9 * size.max(1e-10).powf(-0.2)).clamp(0.2, 5.0)
}
