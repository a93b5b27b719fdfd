//! Loads, stores, atomics, asynchronous copies, matrix loads.

use super::operands::{Operands, operand};
use super::{Access, AtomicOp, Decoded, Ins, Number, Op};
use crate::ptx::{Operand, Space, Statement, Type, number};

type Result<T> = std::result::Result<T, String>;

pub(crate) fn decode(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Decoded {
    Some(match parts[0] {
        "ld" | "ldu" => load(operands, statement, parts, ins),
        "st" => store(operands, statement, parts, ins),
        "atom" | "red" => atomic(operands, statement, parts, ins),
        "cp" => copy(operands, statement, parts, ins),
        "ldmatrix" | "stmatrix" => matrix(operands, statement, parts, ins),
        "membar" | "fence" => {
            ins.op = Op::Fence;
            if parts.iter().any(|part| part.contains("async") || part.contains("mbarrier")) {
                Err("not supported".into())
            } else {
                Ok(())
            }
        }
        "prefetch" | "prefetchu" | "applypriority" | "discard" | "griddepcontrol" | "nanosleep" => Ok(()), // hints
        "createpolicy" => {
            let policy = operands.constant(0, true);
            let target = operand(statement, 0).and_then(|o| operands.target(o, Type::B(64)));
            ins.op = Op::Alu;
            match (target, super::alu_for(&["mov", "b64"])) {
                (Ok(target), Some(f)) => {
                    ins.f = f;
                    ins.set_operands(&[target], &[policy]);
                    Ok(())
                }
                (Err(why), _) => Err(why),
                _ => Err("no move".into()),
            }
        }
        _ => return None,
    })
}

fn space(parts: &[&str]) -> Result<Space> {
    for part in &parts[1..] {
        return Ok(match *part {
            "global" => Space::Global,
            "shared" | "shared::cta" => Space::Shared,
            "local" => Space::Local,
            "const" => Space::Const,
            "param" | "param::entry" | "param::func" => Space::Param,
            "shared::cluster" => return Err("clusters are not supported".into()),
            _ => continue,
        });
    }
    Ok(Space::Generic)
}

/// Orders and scopes, caching, and everything else that changes no value.
fn check_qualifiers(parts: &[&str], allowed: &[&str]) -> Result<()> {
    const KNOWN: &[&str] = &[
        "global",
        "shared",
        "shared::cta",
        "local",
        "const",
        "param",
        "param::entry",
        "param::func",
        "volatile",
        "relaxed",
        "acquire",
        "release",
        "acq_rel",
        "weak",
        "cta",
        "gpu",
        "sys",
        "cluster",
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "wb",
        "wt",
        "nc",
        "v2",
        "v4",
        "v8",
        "unified",
        "noftz",
    ];
    let hint = |part: &&str| part.starts_with("L1::") || part.starts_with("L2::");
    let strange = parts[1..parts.len() - 1].iter().find(|p| !KNOWN.contains(p) && !allowed.contains(p) && !hint(p));
    strange.map_or(Ok(()), |part| Err(format!("`.{part}` is not supported")))
}

fn is_strong(parts: &[&str]) -> bool {
    parts.iter().any(|part| matches!(*part, "volatile" | "relaxed" | "acquire" | "release" | "acq_rel"))
}

fn vector(parts: &[&str]) -> u8 {
    parts
        .iter()
        .find_map(|part| {
            Some(match *part {
                "v2" => 2,
                "v4" => 4,
                "v8" => 8,
                _ => return None,
            })
        })
        .unwrap_or(1)
}

/// The access of `ld` or `st`, and the slots of its registers.
fn moved(
    operands: &mut Operands,
    parts: &[&str],
    address: &Operand,
    registers: &Operand,
    is_load: bool,
) -> Result<(Access, Vec<u32>)> {
    check_qualifiers(parts, &[])?;
    let ty = Type::parse(parts[parts.len() - 1]).filter(|ty| ty.bits() <= 64).ok_or("unknown type")?;
    let mut access = operands.access(address, space(parts)?, ty.bytes())?;
    access.count = vector(parts);
    access.signed = matches!(ty, Type::S(_));
    access.strong = is_strong(parts);
    let list = operands.list(registers).to_vec();
    if list.len() != access.count as usize {
        return Err(format!("{} registers for {} elements", list.len(), access.count));
    }
    access.wide_registers = list.iter().any(|o| operands.width(o, ty) == 64);
    let held = match (access.wide_registers, ty) {
        (true, Type::F(64)) => ty,
        (true, _) => Type::B(64),
        (false, Type::F(32)) => ty,
        (false, _) => Type::B(32),
    };
    let slots = list.iter().map(|o| if is_load { operands.target(o, held) } else { operands.source(o, held) });
    let slots = slots.collect::<Result<Vec<_>>>()?;
    operands.note_width(access.space, ty.bytes());
    Ok((access, slots))
}

fn load(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let (access, slots) = moved(operands, parts, operand(statement, 1)?, operand(statement, 0)?, true)?;
    ins.op = Op::Load(access);
    ins.set_operands(&slots, &[access.base]);
    Ok(())
}

fn store(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let (access, mut slots) = moved(operands, parts, operand(statement, 0)?, operand(statement, 1)?, false)?;
    ins.op = Op::Store(access);
    slots.push(access.base);
    ins.set_operands(&[], &slots);
    Ok(())
}

fn atomic(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let ty = Type::parse(parts[parts.len() - 1]).ok_or("unknown type")?;
    let (op, name) = parts
        .iter()
        .find_map(|part| {
            Some(match *part {
                "add" => (AtomicOp::Add, "add"),
                "min" => (AtomicOp::Min, "min"),
                "max" => (AtomicOp::Max, "max"),
                "and" => (AtomicOp::And, "and"),
                "or" => (AtomicOp::Or, "or"),
                "xor" => (AtomicOp::Xor, "xor"),
                "exch" => (AtomicOp::Exchange, "exch"),
                "cas" => (AtomicOp::CompareSwap, "cas"),
                "inc" => (AtomicOp::Increment, "inc"),
                "dec" => (AtomicOp::Decrement, "dec"),
                _ => return None,
            })
        })
        .ok_or("unknown operation")?;
    check_qualifiers(parts, &[name])?;
    let number = match ty {
        Type::S(32 | 64) => Number::Signed,
        Type::U(32 | 64) | Type::B(32 | 64) => Number::Unsigned,
        Type::F(32) if op == AtomicOp::Add => Number::F32,
        Type::F(64) if op == AtomicOp::Add => Number::F64,
        Type::F16x2 if op == AtomicOp::Add => Number::F16x2,
        Type::Bf16x2 if op == AtomicOp::Add => Number::Bf16x2,
        _ => return Err("not supported".into()),
    };
    if vector(parts) != 1 {
        return Err("vector atomics are not supported".into());
    }
    let returns = parts[0] == "atom";
    let first = usize::from(returns);
    let mut access = operands.access(operand(statement, first)?, space(parts)?, ty.bytes())?;
    access.strong = true;
    access.wide_registers = ty.bits() == 64;
    let target = if returns {
        operands.target(operand(statement, 0)?, ty)?
    } else {
        operands.target(&Operand::Name("_".into()), ty)?
    };
    let values = if op == AtomicOp::CompareSwap { 2 } else { 1 };
    let mut sources =
        (0..values).map(|k| operands.source(operand(statement, first + 1 + k)?, ty)).collect::<Result<Vec<_>>>()?;
    sources.push(access.base);
    operands.note_width(access.space, ty.bytes());
    ins.op = Op::Atomic(access, op, number, returns);
    ins.set_operands(&[target], &sources);
    Ok(())
}

fn copy(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    if parts.get(1) != Some(&"async") || parts.iter().any(|part| matches!(*part, "bulk" | "mbarrier")) {
        return Err("not supported".into());
    }
    let integer = |index| match operand(statement, index)? {
        Operand::Number(text) => {
            let count = number(text, Type::U(32)).and_then(|count| u32::try_from(count).ok());
            count.ok_or_else(|| format!("`{text}` is no count"))
        }
        _ => Err("a count is expected".to_string()),
    };
    match parts[2] {
        "commit_group" => ins.op = Op::CpCommit,
        "wait_group" => ins.op = Op::CpWait(integer(0)?),
        "wait_all" => ins.op = Op::CpWait(u32::MAX), // also what was not committed
        "ca" | "cg" => {
            let size = integer(2)?;
            if !matches!((parts[2], size), ("ca", 4 | 8) | (_, 16)) {
                return Err(format!("a copy of {size} bytes is not possible"));
            }
            let to = operands.access(operand(statement, 0)?, Space::Shared, size)?;
            let from = operands.access(operand(statement, 1)?, Space::Global, size)?;
            operands.note_width(Space::Shared, size);
            // How many bytes are read (the rest becomes zero), or a predicate that says "none", or a cache policy.
            let filled = match statement.operands.get(3) {
                Some(o) if operands.is_predicate(o) => {
                    ins.preds[2] = operands.predicate_operand(o)?;
                    operands.constant(u64::from(size), false)
                }
                Some(o) if operands.width(o, Type::U(32)) == 64 => operands.constant(u64::from(size), false),
                Some(o) => {
                    operands.note_width(Space::Global, 4);
                    operands.source(o, Type::U(32))?
                }
                None => operands.constant(u64::from(size), false),
            };
            operands.note_width(Space::Global, size);
            ins.op = Op::CpAsync { to, from };
            ins.set_operands(&[], &[to.base, from.base, filled]);
        }
        _ => return Err("not supported".into()),
    }
    Ok(())
}

/// `ldmatrix` and `stmatrix`: each lane gives the address of a 16-byte row.
fn matrix(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let is_load = parts[0] == "ldmatrix";
    const KNOWN: &[&str] = &["sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16"];
    if let Some(part) = parts[1..].iter().find(|part| !KNOWN.contains(part)) {
        return Err(format!("`.{part}` is not supported"));
    }
    let transposed = parts.contains(&"trans");
    let (at, registers) = if is_load { (1, 0) } else { (0, 1) };
    let access = operands.access(operand(statement, at)?, Space::Shared, 16)?;
    operands.note_width(Space::Shared, 16);
    let list = operands.list(operand(statement, registers)?).to_vec();
    let wanted = if parts.contains(&"x4") {
        4
    } else if parts.contains(&"x2") {
        2
    } else {
        1
    };
    if list.len() != wanted {
        return Err(format!("{} registers, {wanted} are wanted", list.len()));
    }
    let word = Type::B(32);
    let slots = list.iter().map(|o| if is_load { operands.target(o, word) } else { operands.source(o, word) });
    let mut slots = slots.collect::<Result<Vec<_>>>()?;
    if is_load {
        ins.op = Op::LdMatrix { from: access, transposed };
        ins.set_operands(&slots, &[access.base]);
    } else {
        ins.op = Op::StMatrix { to: access, transposed };
        slots.push(access.base);
        ins.set_operands(&[], &slots);
    }
    Ok(())
}
