//! Point sets in the plane, made by formula: what small networks learn in seconds and a scatter plot shows whole.

use crate::error::{Result, unknown_name};
use crate::rng::{Address, Purpose};
use crate::tensor::Tensor;

/// A distribution of points (x, y) of about unit variance.
///
/// Below, u and θ are uniform and z is a standard normal of each coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toy {
    /// A spiral: (θ·cos θ, θ·sin θ)/7 + 0.04·z with θ in [1.5π, 4.5π]. Radius 0.67 to 2.02, one and a half turns; an arc
    /// of given length holds mass in inverse proportion to about its radius.
    SwissRoll,
    /// Two interleaved half circles, each with probability 1/2: √2·((cos θ, sin θ) − (½, ¼)) + 0.07·z, and
    /// √2·((1 − cos θ, ½ − sin θ) − (½, ¼)) + 0.07·z, with θ in [0, π].
    Moons,
    /// Uniform on the dark squares of the board [−2, 2]² of sixteen unit squares: density 1/8 where ⌊x⌋ + ⌊y⌋ is even,
    /// 0 elsewhere. Variance 4/3 of each coordinate.
    Checkerboard,
    /// Equal normals of standard deviation 0.1 at 1.4·(cos kπ/4, sin kπ/4), k = 0 to 7: density Σ_k N((x, y); centre_k,
    /// 0.01·I)/8. Variance 0.99 of each coordinate.
    EightGaussians,
}

const ROLL_SCALE: f64 = 7.0; // θ has root mean square 9.8, so each coordinate about 6.9
const ROLL_NOISE: f64 = 0.04;
const MOONS_NOISE: f64 = 0.07;
const RING_RADIUS: f64 = 1.4;
const RING_NOISE: f64 = 0.1;

impl Toy {
    /// All names.
    pub const NAMES: [&str; 4] = ["swiss_roll", "moons", "checkerboard", "eight_gaussians"];

    /// All of them, in the order of [`Toy::NAMES`].
    pub const ALL: [Toy; 4] = [Toy::SwissRoll, Toy::Moons, Toy::Checkerboard, Toy::EightGaussians];

    /// Reads a name.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the known names and the nearest one.
    pub fn from_name(name: &str) -> Result<Toy> {
        let found = Toy::ALL.into_iter().find(|toy| toy.name() == name);
        found.ok_or_else(|| unknown_name("toy data set", name, &Toy::NAMES))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Toy::NAMES[self as usize]
    }

    /// Draws `count` points `[count, 2]`, f32 on the host. Point i depends on (seed, i) alone.
    ///
    /// # Errors
    /// Never on the host.
    ///
    /// # Example
    /// ```
    /// use tweedie::data::Toy;
    /// let (few, many) = (Toy::Moons.sample(7, 10)?, Toy::Moons.sample(7, 1000)?);
    /// assert_eq!(few.to_vec::<f32>()?, many.rows(0, 10)?.to_vec::<f32>()?);
    /// # Ok::<(), tweedie::Error>(())
    /// ```
    pub fn sample(self, seed: u64, count: usize) -> Result<Tensor> {
        let address = Address::new(seed, Purpose::Toy).sub_index(self as usize);
        let points: Vec<[f32; 2]> = (0..count).map(|i| self.point(address.sample(i))).collect();
        Tensor::from_slice(points.as_flattened(), [count, 2])
    }

    /// The density at (x, y), where it has a closed form: of the checkerboard and the eight Gaussians. Its integral over
    /// the plane is 1.
    pub fn density(self, x: f64, y: f64) -> Option<f64> {
        match self {
            Toy::SwissRoll | Toy::Moons => None,
            Toy::Checkerboard => {
                let is_inside = (-2.0..2.0).contains(&x) && (-2.0..2.0).contains(&y);
                let is_dark = (x.floor() + y.floor()).rem_euclid(2.0) == 0.0;
                Some(if is_inside && is_dark { 0.125 } else { 0.0 })
            }
            Toy::EightGaussians => {
                let bell = |k| {
                    let [cx, cy] = ring_centre(k);
                    (-((x - cx).powi(2) + (y - cy).powi(2)) / (2.0 * RING_NOISE.powi(2))).exp()
                };
                Some((0..8).map(bell).sum::<f64>() / (8.0 * std::f64::consts::TAU * RING_NOISE.powi(2)))
            }
        }
    }

    fn point(self, at: Address) -> [f32; 2] {
        use std::f64::consts::{PI, SQRT_2};
        let [x, y] = match self {
            Toy::SwissRoll => {
                let theta = 1.5 * PI * (1.0 + 2.0 * at.uniform(0));
                noisy([theta * theta.cos() / ROLL_SCALE, theta * theta.sin() / ROLL_SCALE], ROLL_NOISE, at)
            }
            Toy::Moons => {
                let (sin, cos) = (PI * at.uniform(0)).sin_cos();
                let [x, y] = if at.below(1, 2) == 0 { [cos, sin] } else { [1.0 - cos, 0.5 - sin] };
                noisy([SQRT_2 * (x - 0.5), SQRT_2 * (y - 0.25)], MOONS_NOISE, at)
            }
            Toy::Checkerboard => {
                // Row j has its dark squares at columns of the same parity.
                let (half, j) = (at.below(0, 2), at.below(1, 4));
                // 2^20 places, half a step from the edges: exact in f32, so that no point rounds into a light square.
                let inside = |element| (at.below(element, 1 << 20) as f64 + 0.5) / f64::from(1 << 20);
                [(2 * half + j % 2) as f64 - 2.0 + inside(2), j as f64 - 2.0 + inside(3)]
            }
            Toy::EightGaussians => noisy(ring_centre(at.below(0, 8)), RING_NOISE, at),
        };
        [x as f32, y as f32]
    }
}

fn ring_centre(k: usize) -> [f64; 2] {
    let (sin, cos) = (k as f64 * std::f64::consts::FRAC_PI_4).sin_cos();
    [RING_RADIUS * cos, RING_RADIUS * sin]
}

/// The place and the choice are elements 0 and 1 of a point, which are bits 0 to 3: the noise begins after them.
fn noisy([x, y]: [f64; 2], deviation: f64, at: Address) -> [f64; 2] {
    let mut z = [0.0_f32; 2];
    at.fill_normal_from(4, &mut z);
    [x + deviation * f64::from(z[0]), y + deviation * f64::from(z[1])]
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 40_000;

    fn points(toy: Toy) -> Vec<[f64; 2]> {
        let values = toy.sample(11, COUNT).unwrap().to_vec::<f32>().unwrap();
        values.chunks_exact(2).map(|p| [f64::from(p[0]), f64::from(p[1])]).collect()
    }

    #[test]
    fn points_have_the_moments_of_their_formulas() {
        use std::f64::consts::PI;
        // Spiral: E[θ²]/2 with E over cos² by quadrature. Moons: var cos = 1/2, var sin = 1/2 − 4/π².
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            (0..10_000).map(|i| f(1.5 * PI * (1.0 + 2.0 * (f64::from(i) + 0.5) / 1e4))).sum::<f64>() / 1e4
        };
        let roll = |f: fn(f64) -> f64| {
            let mean = mean_of(&|t| t * f(t) / 7.0);
            (mean, mean_of(&|t| (t * f(t) / 7.0).powi(2)) - mean * mean + 0.04_f64.powi(2))
        };
        let lift: f64 = 2.0 / PI - 0.25; // half the distance of the moons' mean heights
        let moons_y = 2.0 * (0.5 - 4.0 / (PI * PI) + lift * lift) + 0.07_f64.powi(2);
        for (toy, want) in [
            (Toy::SwissRoll, [roll(f64::cos), roll(f64::sin)]),
            (Toy::Moons, [(0.0, 2.0 * 0.75 + 0.07_f64.powi(2)), (0.0, moons_y)]),
            (Toy::Checkerboard, [(0.0, 4.0 / 3.0); 2]),
            (Toy::EightGaussians, [(0.0, 0.99); 2]),
        ] {
            for axis in 0..2 {
                let (mean, variance) = want[axis];
                let values: Vec<f64> = points(toy).iter().map(|p| p[axis]).collect();
                let got = values.iter().sum::<f64>() / COUNT as f64;
                let got_variance = values.iter().map(|v| (v - got).powi(2)).sum::<f64>() / COUNT as f64;
                // 4.5 standard errors: of a mean √(var/n), of a variance at most √(2/n)·var for tails below a normal's.
                let error = 4.5 * (variance / COUNT as f64).sqrt();
                assert!((got - mean).abs() < error, "{toy:?} mean {axis}: {got} against {mean}");
                let error = 4.5 * (2.0 / COUNT as f64).sqrt() * variance;
                assert!((got_variance - variance).abs() < error, "{toy:?} variance {axis}: {got_variance}, {variance}");
            }
        }
    }

    #[test]
    fn every_checkerboard_point_lies_in_a_dark_square_and_all_squares_are_equal() {
        let mut squares = [0_usize; 16];
        for [x, y] in points(Toy::Checkerboard) {
            assert_eq!(Toy::Checkerboard.density(x, y), Some(0.125), "({x}, {y})");
            assert!(x.fract() != 0.0 && y.fract() != 0.0, "({x}, {y}) lies on an edge");
            squares[((x + 2.0).floor() + 4.0 * (y + 2.0).floor()) as usize] += 1;
        }
        // Eight dark squares of 5000 points: standard deviation 66, bound 4.5 of them.
        assert_eq!(squares.iter().filter(|n| n.abs_diff(5000) < 297).count(), 8, "{squares:?}");
    }

    #[test]
    fn every_point_lies_near_its_curve_or_centre() {
        use std::f64::consts::{PI, SQRT_2};
        let distance = |[x, y]: [f64; 2], [a, b]: [f64; 2]| (x - a).hypot(y - b);
        let nearest = |p: [f64; 2], centres: &mut dyn Iterator<Item = [f64; 2]>| {
            centres.map(|c| distance(p, c)).fold(f64::INFINITY, f64::min)
        };
        let grid = |i: i32| f64::from(i) / 2000.0;
        let moon = |i, lower: bool| {
            let (sin, cos) = (PI * grid(i)).sin_cos();
            let [x, y] = if lower { [1.0 - cos, 0.5 - sin] } else { [cos, sin] };
            [SQRT_2 * (x - 0.5), SQRT_2 * (y - 0.25)]
        };
        let roll = |i| {
            let theta = 1.5 * PI * (1.0 + 2.0 * grid(i));
            [theta * theta.cos() / 7.0, theta * theta.sin() / 7.0]
        };
        // The first 2000 points stay within 5 deviations: a normal leaves 5 in a plane once in 270 000.
        for (toy, noise) in [(Toy::SwissRoll, 0.04), (Toy::Moons, 0.07), (Toy::EightGaussians, 0.1)] {
            for p in points(toy).into_iter().take(2000) {
                let off = match toy {
                    Toy::SwissRoll => nearest(p, &mut (0..=2000).map(roll)),
                    Toy::Moons => nearest(p, &mut (0..=2000).flat_map(|i| [moon(i, false), moon(i, true)])),
                    _ => nearest(p, &mut (0..8).map(ring_centre)),
                };
                assert!(off < 5.0 * noise, "{toy:?}: {p:?} is {off} away");
            }
        }
    }

    #[test]
    fn densities_integrate_to_one() {
        let step = 1.0 / 64.0;
        let places = || (-192..192).map(|i| (f64::from(i) + 0.5) * step);
        for toy in [Toy::Checkerboard, Toy::EightGaussians] {
            let mass: f64 =
                places().flat_map(|x| places().map(move |y| (x, y))).filter_map(|(x, y)| toy.density(x, y)).sum();
            // The midpoint rule is exact for the board, and far below 1e-9 for bells six steps wide.
            assert!((mass * step * step - 1.0).abs() < 1e-9, "{toy:?}: {}", mass * step * step);
        }
        assert_eq!(Toy::Checkerboard.density(2.5, 0.5), Some(0.0));
        assert_eq!(Toy::Moons.density(0.0, 0.0), None);
    }

    #[test]
    fn names_are_read_back_and_unknown_ones_list_the_known() {
        for toy in Toy::ALL {
            assert_eq!(Toy::from_name(toy.name()).unwrap(), toy);
        }
        let text = Toy::from_name("moon").unwrap_err().to_string();
        assert!(text.contains("toy data set \"moon\" is unknown; known: swiss_roll, moons,"), "{text}");
        assert!(text.ends_with("did you mean \"moons\"?"), "{text}");
    }

    #[test]
    fn sets_and_seeds_have_points_of_their_own() {
        let first = |toy: Toy, seed| toy.sample(seed, 1).unwrap().to_vec::<f32>().unwrap();
        assert_ne!(first(Toy::Moons, 0), first(Toy::Moons, 1));
        assert_eq!(Toy::Moons.sample(0, 0).unwrap().shape()[..], [0, 2]);
    }
}
