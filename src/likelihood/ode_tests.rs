use super::*;
use crate::denoiser::oracle::Oracle;
use crate::process::{BetaCurve, Edm, Flow as FlowProcess, Ou, SubVp, Ve, Vp};

fn vp() -> Vp {
    Vp::new(BetaCurve::Linear { min: 0.1, max: 20.0 }, false).unwrap()
}

/// Two correlated bumps in the plane: its Jacobians are symmetric but not diagonal.
fn plane() -> Oracle {
    Oracle::mixture(
        &[0.4, 0.6],
        &[vec![-1.0, 0.2], vec![0.8, 0.5]],
        &[vec![0.3, 0.1, 0.1, 0.2], vec![0.2, -0.1, -0.1, 0.4]],
    )
    .unwrap()
}

fn densities(process: &dyn Process, x: &Tensor, trace: Trace<'_>, tolerance: f64) -> Vec<OdeDensity> {
    let samples: Vec<u32> = (0..x.shape()[0] as u32).collect();
    let prior = |x: &[f64]| plane().log_density(x, process.level(1.0));
    ode_log_density(&plane(), process, x, &samples, &prior, &OdeOptions { tolerance, trace }).unwrap()
}

#[test]
fn every_process_gives_the_exact_density_of_a_mixture_at_its_least_time() {
    let curve = BetaCurve::Linear { min: 0.1, max: 20.0 };
    let processes: [&dyn Process; 6] = [
        &vp(),
        &SubVp::new(curve).unwrap(),
        &Ve::new(0.02, 30.0).unwrap(),
        &Edm::new(0.01, 50.0, 7.0).unwrap(),
        &Ou::new(4.0, 2.0).unwrap(),
        &FlowProcess,
    ];
    for process in processes {
        let first = process.level(process.min_time());
        let x = plane().sample(4, 3, first).unwrap();
        for (i, found) in densities(process, &x, Trace::Exact, 1e-7).iter().enumerate() {
            let exact = plane().log_density(&x.host::<f64>().unwrap()[2 * i..2 * i + 2], first);
            // Some hundred steps, each with an error below 1e-7·(2 + |integral|).
            let miss = (found.log_density - exact).abs();
            assert!(miss < 1e-4, "{} point {i}: {miss}", process.name());
        }
    }
}

#[test]
fn the_mean_over_all_sign_vectors_is_the_exact_trace_and_one_vector_is_not() {
    let x = plane().sample(4, 2, vp().level(1e-3)).unwrap();
    let signs: Vec<Vec<f64>> = (0..4).map(|k| vec![1.0 - 2.0 * f64::from(k & 1), 1.0 - f64::from(k & 2)]).collect();
    let exact = densities(&vp(), &x, Trace::Exact, 1e-6);
    let mean = densities(&vp(), &x, Trace::Given(&signs), 1e-6);
    let one = densities(&vp(), &x, Trace::Given(&signs[..1]), 1e-6);
    for i in 0..2 {
        // The same flow and the same divergence to rounding, so the same steps.
        assert!((exact[i].log_density - mean[i].log_density).abs() < 1e-10);
        assert!((exact[i].log_density - one[i].log_density).abs() > 1e-3);
    }
}

#[test]
fn drawn_probes_have_the_moments_of_their_law_and_are_addressed_by_point() {
    // 4000 probes of 130 numbers, seed 1; the trace of I is d exactly for signs.
    let all = |trace| probes(trace, 130, 3);
    let signs = all(Trace::Rademacher { probes: 4000, seed: 1 });
    assert!(signs.iter().flatten().all(|v| v.abs() == 1.0));
    for list in [signs, all(Trace::Gaussian { probes: 4000, seed: 1 })] {
        for (j, k) in [(0, 0), (0, 1), (31, 32), (127, 128), (129, 129)] {
            let mean = list.iter().map(|v| v[j] * v[k]).sum::<f64>() / 4000.0;
            let want = f64::from(u8::from(j == k));
            // Standard errors 1/√4000, √2/√4000 on a Gaussian's diagonal: five of the larger.
            assert!((mean - want).abs() < 0.112, "{j}, {k}: {mean}");
        }
    }
    let of = |sample| probes(Trace::Rademacher { probes: 1, seed: 1 }, 130, sample);
    assert_ne!(of(3), of(4));
    assert_eq!(of(3)[0], probes(Trace::Rademacher { probes: 2, seed: 1 }, 130, 3)[0]);
}

#[test]
fn densities_do_not_depend_on_the_batch() {
    let x = plane().sample(4, 4, vp().level(1e-3)).unwrap();
    let run = |from: usize, len: usize| {
        let samples: Vec<u32> = (from as u32..(from + len) as u32).collect();
        let (x, prior) = (x.rows(from, len).unwrap(), gaussian_log_prior(1.0));
        ode_log_density(&plane(), &vp(), &x, &samples, &prior, &OdeOptions::default()).unwrap()
    };
    assert_eq!(run(0, 4), [run(0, 1), run(1, 3)].concat());
}

#[test]
fn settings_without_an_answer_are_refused() {
    let x = plane().sample(4, 1, vp().level(1e-3)).unwrap();
    let text = |options: OdeOptions<'_>, samples: &[u32]| {
        let prior = gaussian_log_prior(1.0);
        ode_log_density(&plane(), &vp(), &x, samples, &prior, &options).unwrap_err().to_string()
    };
    let with = |trace| OdeOptions { tolerance: 1e-4, trace };
    assert!(text(OdeOptions { tolerance: 1.0, trace: Trace::Exact }, &[0]).contains("expected 1e-13 to 1"));
    assert!(text(with(Trace::Rademacher { probes: 0, seed: 0 }), &[0]).contains("--probes 0"));
    let short = [vec![1.0]];
    assert!(text(with(Trace::Given(&short)), &[0]).contains("a probe of 1 numbers for points of 2"));
    assert!(text(with(Trace::Exact), &[]).contains("one index a point"));
    assert!(probe_scale(Trace::Exact, 5000).unwrap_err().to_string().contains("use probes"));
}
