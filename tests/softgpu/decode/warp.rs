//! Instructions in which the lanes of a warp work together.

use super::operands::{Operands, operand};
use super::{AtomicOp, Decoded, Ins, Op, ShuffleMode, VoteMode};
use crate::mma::Shape;
use crate::ptx::{Operand, Statement, Type};

type Result<T> = std::result::Result<T, String>;

const WORD: Type = Type::B(32);

pub(crate) fn decode(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Decoded {
    Some(match parts[0] {
        "bar" | "barrier" => barrier(operands, statement, ins),
        "shfl" => shuffle(operands, statement, parts, ins),
        "vote" => vote(operands, statement, parts, ins),
        "match" => find_matches(operands, statement, parts, ins),
        "redux" => reduce(operands, statement, parts, ins),
        "activemask" => {
            ins.op = Op::ActiveMask;
            let target = operand(statement, 0).and_then(|o| operands.target(o, WORD));
            target.map(|target| ins.set_operands(&[target], &[]))
        }
        "mma" => matrix_product(operands, statement, parts, ins),
        "movmatrix" => transpose(operands, statement, parts, ins),
        _ => return None,
    })
}

fn barrier(operands: &mut Operands, statement: &Statement, ins: &mut Ins) -> Result<()> {
    ins.op = Op::BarrierWarp;
    let mask = operands.source(operand(statement, 0)?, WORD)?;
    ins.set_operands(&[], &[mask]);
    Ok(())
}

/// A destination that may be `d|p`.
fn with_predicate(operands: &mut Operands, statement: &Statement, ins: &mut Ins) -> Result<u32> {
    match operand(statement, 0)? {
        Operand::Pair(value, predicate) => {
            ins.preds[0] = operands.predicate_operand(predicate)?;
            operands.target(value, WORD)
        }
        value => operands.target(value, WORD),
    }
}

fn shuffle(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let [_, "sync", mode, "b32"] = parts else { return Err("not supported".into()) };
    let mode = match *mode {
        "up" => ShuffleMode::Up,
        "down" => ShuffleMode::Down,
        "bfly" => ShuffleMode::Butterfly,
        "idx" => ShuffleMode::Index,
        _ => return Err("unknown mode".into()),
    };
    let target = with_predicate(operands, statement, ins)?;
    let sources = (1..5).map(|k| operands.source(operand(statement, k)?, WORD)).collect::<Result<Vec<_>>>()?;
    ins.op = Op::Shuffle(mode);
    ins.set_operands(&[target], &sources);
    Ok(())
}

fn vote(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let mode = match parts {
        [_, "sync", "all", "pred"] => VoteMode::All,
        [_, "sync", "any", "pred"] => VoteMode::Any,
        [_, "sync", "uni", "pred"] => VoteMode::Uniform,
        [_, "sync", "ballot", "b32"] => VoteMode::Ballot,
        _ => return Err("not supported".into()),
    };
    ins.preds[2] = operands.predicate_operand(operand(statement, 1)?)?;
    let mask = operands.source(operand(statement, 2)?, WORD)?;
    let mut targets = Vec::new();
    if mode == VoteMode::Ballot {
        targets.push(operands.target(operand(statement, 0)?, WORD)?);
    } else {
        ins.preds[0] = operands.predicate_operand(operand(statement, 0)?)?;
    }
    ins.op = Op::Vote(mode);
    ins.set_operands(&targets, &[mask]);
    Ok(())
}

fn find_matches(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let (all, wide) = match parts {
        [_, mode @ ("any" | "all"), "sync", ty @ ("b32" | "b64")] => (*mode == "all", *ty == "b64"),
        _ => return Err("not supported".into()),
    };
    let target = with_predicate(operands, statement, ins)?;
    let value = operands.source(operand(statement, 1)?, if wide { Type::B(64) } else { WORD })?;
    let mask = operands.source(operand(statement, 2)?, WORD)?;
    ins.op = Op::Match { all, wide };
    ins.set_operands(&[target], &[value, mask]);
    Ok(())
}

fn reduce(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let [_, "sync", op, ty] = parts else { return Err("not supported".into()) };
    let op = match *op {
        "add" => AtomicOp::Add,
        "min" => AtomicOp::Min,
        "max" => AtomicOp::Max,
        "and" => AtomicOp::And,
        "or" => AtomicOp::Or,
        "xor" => AtomicOp::Xor,
        _ => return Err("unknown operation".into()),
    };
    if !matches!(*ty, "u32" | "s32" | "b32") {
        return Err("not supported".into());
    }
    let target = operands.target(operand(statement, 0)?, WORD)?;
    let value = operands.source(operand(statement, 1)?, WORD)?;
    let mask = operands.source(operand(statement, 2)?, WORD)?;
    ins.op = Op::Reduce(op, *ty == "s32");
    ins.set_operands(&[target], &[value, mask]);
    Ok(())
}

/// `mma.sync`: registers of d, a, b, c in this order.
fn matrix_product(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let shape = Shape::parse(parts).ok_or("this shape or type is not supported")?;
    let counts = shape.registers();
    let mut slots = Vec::new();
    for (k, count) in counts.into_iter().enumerate() {
        let list = operands.list(operand(statement, k)?).to_vec();
        if list.len() != count {
            return Err(format!("operand {k} has {} registers, {count} are wanted", list.len()));
        }
        for o in &list {
            slots.push(if k == 0 {
                operands.target(o, WORD)?
            } else {
                operands.source(o, if k == 3 { shape.sum_type() } else { WORD })?
            });
        }
    }
    ins.op = Op::Mma(shape);
    ins.set_operands(&slots[..counts[0]], &slots[counts[0]..]);
    Ok(())
}

fn transpose(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    if parts[1..] != ["sync", "aligned", "m8n8", "trans", "b16"] {
        return Err("not supported".into());
    }
    let target = operands.target(operand(statement, 0)?, WORD)?;
    let source = operands.source(operand(statement, 1)?, WORD)?;
    ins.op = Op::MovMatrix;
    ins.set_operands(&[target], &[source]);
    Ok(())
}
