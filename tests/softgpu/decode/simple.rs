//! Moves, arithmetic, predicates, branches.

use super::operands::{Operands, operand};
use super::{BarrierKind, Class, Decoded, Ins, Logic, Op, alu_for};
use crate::alu::{Conversion, conversion, test};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::numeric::Rounding;
use crate::ptx::{Operand, Statement, Type};

type Result<T> = std::result::Result<T, String>;

pub(crate) fn decode(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Decoded {
    let ty = parts.last().copied().unwrap_or_default();
    Some(match parts[0] {
        "ret" | "exit" => {
            ins.op = Op::Exit;
            Ok(())
        }
        "trap" | "brkpt" => {
            ins.op = Op::Trap;
            Ok(())
        }
        "bra" => branch(operands, statement, ins),
        "brx" => branch_table(operands, statement, ins),
        "setp" => set_predicate(operands, statement, parts, ins),
        "selp" => select(operands, statement, ty, ins),
        "testp" => test_class(operands, statement, parts, ins),
        "bar" | "barrier" if !parts.contains(&"warp") => barrier(operands, statement, parts, ins),
        "mov" if matches!(statement.operands.first(), Some(Operand::Vector(_))) => unpack(operands, statement, ty, ins),
        "mov" if matches!(statement.operands.get(1), Some(Operand::Vector(_))) => pack(operands, statement, ty, ins),
        "cvta" => cvta(operands, statement, parts, ins),
        "mov" | "not" | "and" | "or" | "xor" if ty == "pred" => predicate(operands, statement, parts[0], ins),
        _ => return None,
    })
}

fn branch(operands: &mut Operands, statement: &Statement, ins: &mut Ins) -> Result<()> {
    let Operand::Name(label) = operand(statement, 0)? else { return Err("a label is expected".into()) };
    ins.op = Op::Branch(operands.label(label)?);
    Ok(())
}

fn branch_table(operands: &mut Operands, statement: &Statement, ins: &mut Ins) -> Result<()> {
    let index = operands.source(operand(statement, 0)?, Type::U(32))?;
    let Operand::Name(label) = operand(statement, 1)? else { return Err("a label is expected".into()) };
    let table = *operands.tables.get(label).ok_or_else(|| format!("`{label}` is no .branchtargets list"))?;
    ins.op = Op::BranchTable(table);
    ins.set_operands(&[], &[index]);
    Ok(())
}

/// The boolean that combines a comparison with a predicate, among the parts of an opcode.
fn combination(parts: &[&str]) -> Option<Logic> {
    parts.iter().find_map(|part| match *part {
        "and" => Some(Logic::And),
        "or" => Some(Logic::Or),
        "xor" => Some(Logic::Xor),
        _ => None,
    })
}

fn set_predicate(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let name = *parts.last().ok_or("no type")?;
    let ty = Type::parse(name).ok_or("unknown type")?;
    let known = parts[2..parts.len() - 1].iter().all(|part| matches!(*part, "and" | "or" | "xor" | "ftz"));
    ins.test = test(parts[1], name).filter(|_| known).ok_or("unknown comparison")?;
    let first = operand(statement, 0)?;
    if let Operand::Pair(one, two) = first {
        ins.preds[0] = operands.predicate_operand(one)?;
        ins.preds[1] = operands.predicate_operand(two)?;
    } else {
        ins.preds[0] = operands.predicate_operand(first)?;
    }
    let a = operands.source(operand(statement, 1)?, ty)?;
    let b = operands.source(operand(statement, 2)?, ty)?;
    // The functions of `test` look at r[1] and r[2].
    let unused = operands.constant(0, false);
    ins.set_operands(&[unused], &[a, b]);
    let logic = combination(&parts[2..]);
    if logic.is_some() {
        ins.preds[2] = operands.predicate_operand(operand(statement, 3)?)?;
    }
    ins.op = Op::SetPredicate(logic);
    Ok(())
}

fn select(operands: &mut Operands, statement: &Statement, ty: &str, ins: &mut Ins) -> Result<()> {
    let ty = Type::parse(ty).ok_or("unknown type")?;
    let d = operands.target(operand(statement, 0)?, ty)?;
    let a = operands.source(operand(statement, 1)?, ty)?;
    let b = operands.source(operand(statement, 2)?, ty)?;
    ins.preds[2] = operands.predicate_operand(operand(statement, 3)?)?;
    ins.op = Op::Select { wide: ty.bits() == 64 };
    ins.set_operands(&[d], &[a, b]);
    Ok(())
}

fn test_class(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    if parts.last() != Some(&"f32") {
        return Err("only f32 is supported".into());
    }
    let class = match parts[1] {
        "finite" => Class::Finite,
        "infinite" => Class::Infinite,
        "number" => Class::Number,
        "notanumber" => Class::NotANumber,
        "normal" => Class::Normal,
        "subnormal" => Class::Subnormal,
        _ => return Err("unknown test".into()),
    };
    ins.op = Op::TestClass(class);
    ins.preds[0] = operands.predicate_operand(operand(statement, 0)?)?;
    let a = operands.source(operand(statement, 1)?, Type::F(32))?;
    ins.set_operands(&[], &[a]);
    Ok(())
}

fn predicate(operands: &mut Operands, statement: &Statement, op: &str, ins: &mut Ins) -> Result<()> {
    ins.preds[0] = operands.predicate_operand(operand(statement, 0)?)?;
    let first = operand(statement, 1)?;
    if let (Operand::Number(text), "mov") = (first, op) {
        ins.op = Op::PredicateConstant(text != "0");
        return Ok(());
    }
    ins.preds[1] = operands.predicate_operand(first)?;
    let logic = match op {
        "mov" => None,
        "not" => {
            ins.preds[1].negated = !ins.preds[1].negated;
            None
        }
        "and" => Some(Logic::And),
        "or" => Some(Logic::Or),
        "xor" => Some(Logic::Xor),
        _ => return Err("unknown operation on predicates".into()),
    };
    if logic.is_some() {
        ins.preds[2] = operands.predicate_operand(operand(statement, 2)?)?;
    }
    ins.op = Op::Predicate(logic);
    Ok(())
}

fn barrier(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let kind = match () {
        () if parts.contains(&"popc") => BarrierKind::Popc,
        () if parts.contains(&"and") => BarrierKind::And,
        () if parts.contains(&"or") => BarrierKind::Or,
        () if parts.contains(&"arrive") => BarrierKind::Arrive,
        () if parts.contains(&"sync") => BarrierKind::Sync,
        () => return Err("unknown barrier".into()),
    };
    if parts.iter().any(|part| part.contains("cluster")) {
        return Err("clusters are not supported".into());
    }
    let mut rest = &statement.operands[..];
    let mut targets = Vec::new();
    if !matches!(kind, BarrierKind::Sync | BarrierKind::Arrive) {
        let (result, others) = rest.split_first().ok_or("no destination")?;
        let (condition, numbers) = others.split_last().ok_or("no predicate")?;
        ins.preds[2] = operands.predicate_operand(condition)?;
        if kind == BarrierKind::Popc {
            targets.push(operands.target(result, Type::U(32))?);
        } else {
            ins.preds[0] = operands.predicate_operand(result)?;
        }
        rest = numbers;
    }
    let sources = rest.iter().map(|operand| operands.source(operand, Type::U(32))).collect::<Result<Vec<_>>>()?;
    if sources.is_empty() || sources.len() > 2 {
        return Err("a barrier has a number, and perhaps a count".into());
    }
    let aligned = parts[0] == "bar" || parts.contains(&"aligned");
    ins.op = Op::Barrier { kind, aligned, counted: sources.len() == 2 };
    ins.set_operands(&targets, &sources);
    Ok(())
}

fn unpack(operands: &mut Operands, statement: &Statement, ty: &str, ins: &mut Ins) -> Result<()> {
    let ty = Type::parse(ty).ok_or("unknown type")?;
    let list = operands.list(operand(statement, 0)?).to_vec();
    let bits = ty.bits() / list.len() as u32;
    let targets = list.iter().map(|o| operands.target(o, Type::B(bits as u8))).collect::<Result<Vec<_>>>()?;
    let source = operands.source(operand(statement, 1)?, ty)?;
    ins.op = Op::Unpack { bits: bits as u8 };
    ins.paired = ty.bits() == 64;
    ins.set_operands(&targets, &[source]);
    Ok(())
}

fn pack(operands: &mut Operands, statement: &Statement, ty: &str, ins: &mut Ins) -> Result<()> {
    let ty = Type::parse(ty).ok_or("unknown type")?;
    let list = operands.list(operand(statement, 1)?).to_vec();
    let bits = ty.bits() / list.len() as u32;
    let sources = list.iter().map(|o| operands.source(o, Type::B(bits as u8))).collect::<Result<Vec<_>>>()?;
    let target = operands.target(operand(statement, 0)?, ty)?;
    ins.op = Op::Pack { bits: bits as u8 };
    ins.paired = ty.bits() == 64;
    ins.set_operands(&[target], &sources);
    Ok(())
}

/// Shared, local and parameter memory are windows of the generic address space.
fn cvta(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    if parts.last() != Some(&"u64") {
        return Err("only .u64 is supported".into());
    }
    let window =
        match parts.iter().find_map(|part| Some(part.split("::").next()?).filter(|p| *p != "cvta" && *p != "to")) {
            Some("global" | "const") => 0,
            Some("shared") => SHARED_WINDOW,
            Some("local") => LOCAL_WINDOW,
            Some("param") => PARAM_WINDOW,
            _ => return Err("unknown state space".into()),
        };
    let window = if parts.contains(&"to") { window.wrapping_neg() } else { window };
    let d = operands.target(operand(statement, 0)?, Type::U(64))?;
    let a = operands.source(operand(statement, 1)?, Type::U(64))?;
    let window = operands.constant(window, true);
    ins.op = Op::Alu;
    ins.f = alu_for(&["add", "u64"]).ok_or("no addition")?;
    ins.set_operands(&[d], &[a, window]);
    Ok(())
}

// ---- arithmetic ----

/// What may stand between an opcode and its types.
const QUALIFIERS: &[&str] = &[
    "rn",
    "rz",
    "rm",
    "rp",
    "rna",
    "rni",
    "rzi",
    "rmi",
    "rpi",
    "ftz",
    "sat",
    "approx",
    "full",
    "lo",
    "hi",
    "wide",
    "relu",
    "NaN",
    "xorsign",
    "abs",
    "wrap",
    "clamp",
    "l",
    "r",
    "shiftamt",
    "satfinite",
];

pub(crate) fn arithmetic(operands: &mut Operands, statement: &Statement, parts: &[&str], ins: &mut Ins) -> Result<()> {
    let types: Vec<Type> = parts[1..].iter().filter_map(|part| Type::parse(part)).collect();
    let strange = parts[1..].iter().find(|part| Type::parse(part).is_none() && !QUALIFIERS.contains(part));
    let comparing = parts[0] == "set";
    if let Some(part) = strange.filter(|_| !comparing) {
        return Err(format!("not supported (`.{part}`)"));
    }
    let Some(&ty) = types.last() else { return Err("not supported".into()) };
    ins.paired = matches!(ty, Type::F16x2 | Type::Bf16x2);
    ins.op = if parts[0] == "mov" { Op::Move } else { Op::Alu };
    match parts[0] {
        "cvt" => return convert(operands, statement, parts, &types, ins),
        "set" => return set(operands, statement, parts, &types, ins),
        "slct" => return slct(operands, statement, &types, ins),
        _ => {}
    }
    ins.f = alu_for(parts).ok_or("not supported")?;
    let (target, kinds) = operand_types(parts, ty);
    let d = operands.target(operand(statement, 0)?, target)?;
    let sources = statement.operands[1..].iter().enumerate().map(|(k, o)| operands.source(o, kinds(k)));
    let sources = sources.collect::<Result<Vec<_>>>()?;
    let wanted = match parts[0] {
        "mov" | "not" | "cnot" | "neg" | "abs" | "popc" | "clz" | "brev" | "bfind" | "rcp" | "sqrt" | "rsqrt"
        | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
        "mad" | "fma" | "mad24" | "sad" | "bfe" | "prmt" | "shf" | "dp4a" => 3,
        "bfi" | "lop3" => 4,
        _ => 2,
    };
    if sources.len() != wanted {
        return Err(format!("{} sources, {wanted} are wanted", sources.len()));
    }
    ins.set_operands(&[d], &sources);
    Ok(())
}

/// The destination's type, and each source's.
fn operand_types(parts: &[&str], ty: Type) -> (Type, Box<dyn Fn(usize) -> Type>) {
    let small = Type::U(32);
    match parts[0] {
        "mul" | "mad" if parts.contains(&"wide") => {
            let wide = Type::B((ty.bits() * 2) as u8);
            (wide, Box::new(move |k| if k == 2 { wide } else { ty }))
        }
        "shl" | "shr" => (ty, Box::new(move |k| if k == 1 { small } else { ty })),
        "bfe" => (ty, Box::new(move |k| if k >= 1 { small } else { ty })),
        "bfi" => (ty, Box::new(move |k| if k >= 2 { small } else { ty })),
        "popc" | "clz" | "bfind" => (small, Box::new(move |_| ty)),
        _ => (ty, Box::new(move |_| ty)),
    }
}

fn convert(
    operands: &mut Operands,
    statement: &Statement,
    parts: &[&str],
    types: &[Type],
    ins: &mut Ins,
) -> Result<()> {
    let &[to, from] = types else { return Err("two types are wanted".into()) };
    if parts.contains(&"satfinite") {
        return Err("not supported (`.satfinite`)".into());
    }
    let wide_target = operands.width(operand(statement, 0)?, to) == 64;
    let wide_source = operands.width(operand(statement, 1)?, from) == 64;
    ins.integral = parts.iter().any(|part| matches!(*part, "rni" | "rzi" | "rmi" | "rpi"));
    ins.conversion = Some(Conversion { from, to, rounding: Rounding::find(parts), wide_source, wide_target });
    ins.f = conversion(parts, from, to, wide_source, wide_target).ok_or("not supported")?;
    let as_wide = |wide| Type::B(if wide { 64 } else { 32 });
    let d = operands.target(operand(statement, 0)?, as_wide(wide_target))?;
    let kind = if wide_source {
        as_wide(true)
    } else if from.bits() == 64 {
        from
    } else {
        as_wide(false)
    };
    let kind = if from == Type::F(32) { from } else { kind };
    let sources = statement.operands[1..].iter().map(|o| operands.source(o, kind)).collect::<Result<Vec<_>>>()?;
    ins.set_operands(&[d], &sources);
    Ok(())
}

/// `set.lt.u32.f32`: all ones, or 1.0, where the comparison holds.
fn set(operands: &mut Operands, statement: &Statement, parts: &[&str], types: &[Type], ins: &mut Ins) -> Result<()> {
    let &[to, from] = types else { return Err("two types are wanted".into()) };
    let name = parts.last().copied().unwrap_or_default();
    ins.test = test(parts[1], name).ok_or("unknown comparison")?;
    if combination(&parts[2..]).is_some() || to.bits() != 32 || ins.paired {
        return Err("only a plain comparison into 32 bits is supported".into());
    }
    fn ones(regs: &mut crate::regs::Regs, ins: &Ins, mask: u32) {
        // SAFETY: `test` was picked for this processor.
        let holds = unsafe { (ins.test)(regs, ins) };
        let yes: u32 = if ins.integral { 1.0f32.to_bits() } else { !0 };
        regs.put(ins.r[0], std::array::from_fn(|lane| if holds >> lane & 1 != 0 { yes } else { 0 }), mask);
    }
    ins.integral = to == Type::F(32);
    ins.f = ones;
    let d = operands.target(operand(statement, 0)?, to)?;
    let a = operands.source(operand(statement, 1)?, from)?;
    let b = operands.source(operand(statement, 2)?, from)?;
    ins.set_operands(&[d], &[a, b]);
    Ok(())
}

/// `slct d, a, b, c`: a where c ≥ 0, else b (also where c is a NaN).
fn slct(operands: &mut Operands, statement: &Statement, types: &[Type], ins: &mut Ins) -> Result<()> {
    let &[ty, by] = types else { return Err("two types are wanted".into()) };
    if ty.bits() != 32 {
        return Err("only 32 bits are supported".into());
    }
    fn choose<T: crate::regs::Lane>(regs: &mut crate::regs::Regs, ins: &Ins, mask: u32, positive: fn(T) -> bool) {
        let (a, b, c): ([u32; 32], [u32; 32], [T; 32]) = (regs.get(ins.r[1]), regs.get(ins.r[2]), regs.get(ins.r[3]));
        regs.put(ins.r[0], std::array::from_fn(|k| if positive(c[k]) { a[k] } else { b[k] }), mask);
    }
    ins.f = match by {
        Type::S(32) => |regs, ins, mask| choose::<i32>(regs, ins, mask, |c| c >= 0),
        Type::F(32) => |regs, ins, mask| choose::<f32>(regs, ins, mask, |c| c >= 0.0),
        _ => return Err("unknown selector".into()),
    };
    let d = operands.target(operand(statement, 0)?, ty)?;
    let a = operands.source(operand(statement, 1)?, ty)?;
    let b = operands.source(operand(statement, 2)?, ty)?;
    let c = operands.source(operand(statement, 3)?, by)?;
    ins.set_operands(&[d], &[a, b, c]);
    Ok(())
}
