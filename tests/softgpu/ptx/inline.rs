//! `call`: the callee's body is put in the place of the call, with its own registers and labels, so that nothing below knows
//! of functions. A parameter is the variable that the caller passes.

use std::collections::HashMap;

use super::{Function, Module, Operand, PtxError, Statement, Type};

/// Calls nested deeper than this are taken for a recursion, which has no end here.
const DEPTH: usize = 16;

/// `function` without calls.
pub(crate) fn inlined(module: &Module, function: &Function) -> Result<Function, PtxError> {
    expand(module, function, &mut 0, 0)
}

fn is_call(statement: &Statement) -> bool {
    statement.opcode == "call" || statement.opcode.starts_with("call.")
}

fn expand(module: &Module, function: &Function, count: &mut usize, depth: usize) -> Result<Function, PtxError> {
    let mut out = Function { body: Vec::new(), labels: HashMap::new(), ..function.clone() };
    let mut moved = Vec::new();
    for statement in &function.body {
        moved.push(out.body.len());
        if !is_call(statement) {
            out.body.push(statement.clone());
            continue;
        }
        let refuse =
            |why: String| PtxError::new(statement.origin.ptx_line, format!("opcode `{}`: {why}", statement.opcode));
        if statement.guard.is_some() {
            return Err(refuse("under a predicate is not supported".into()));
        }
        let (results, name, arguments) =
            parts(statement).ok_or_else(|| refuse("only calls by name are supported".into()))?;
        let callee = module.functions.iter().find(|f| f.name == *name && !f.is_entry);
        let callee = callee.ok_or_else(|| refuse(format!("function `{name}` has no body here")))?;
        if depth == DEPTH {
            return Err(refuse(format!("`{name}` calls itself")));
        }
        if callee.params.len() != arguments.len() || callee.returns.len() != results.len() {
            return Err(refuse(format!("`{name}` has other parameters")));
        }
        let callee = expand(module, callee, count, depth + 1)?;
        *count += 1;
        splice(&mut out, &callee, results, arguments, *count);
    }
    moved.push(out.body.len());
    out.labels.extend(function.labels.iter().map(|(label, &at)| (label.clone(), moved[at])));
    Ok(out)
}

/// Results, name and arguments of a call.
fn parts(statement: &Statement) -> Option<(&[Operand], &String, &[Operand])> {
    match &statement.operands[..] {
        [Operand::Group(results), Operand::Name(name), Operand::Group(arguments)] => Some((results, name, arguments)),
        [Operand::Name(name), Operand::Group(arguments)] => Some((&[], name, arguments)),
        [Operand::Group(results), Operand::Name(name)] => Some((results, name, &[])),
        [Operand::Name(name)] => Some((&[], name, &[])),
        _ => None,
    }
}

/// Appends the callee's body as call number `call`.
fn splice(out: &mut Function, callee: &Function, results: &[Operand], arguments: &[Operand], call: usize) {
    let own = |name: &str| format!("{name}@{call}");
    let mut names: HashMap<String, String> = HashMap::new();
    let registers = callee.registers.iter().map(|(name, _)| name);
    let local = callee.variables.iter().map(|variable| &variable.name);
    let tables = callee.tables.keys();
    for name in registers.chain(local).chain(callee.labels.keys()).chain(tables) {
        names.insert(name.clone(), own(name));
    }
    let passed = callee.params.iter().zip(arguments).chain(callee.returns.iter().zip(results));
    for (param, operand) in passed {
        if let Operand::Name(variable) = operand {
            names.insert(param.name.clone(), variable.clone());
        }
    }
    let rename = |name: &String| names.get(name).unwrap_or(name).clone();

    let registers = callee.registers.iter().map(|(name, ty): &(String, Type)| (rename(name), *ty));
    out.registers.extend(registers);
    for variable in &callee.variables {
        out.variables.push(super::Variable { name: rename(&variable.name), ..variable.clone() });
    }
    let start = out.body.len();
    out.labels.extend(callee.labels.iter().map(|(label, &at)| (rename(label), start + at)));
    let targets = |list: &Vec<String>| list.iter().map(rename).collect();
    out.tables.extend(callee.tables.iter().map(|(label, list)| (rename(label), targets(list))));
    let end = own("end of call");
    for statement in &callee.body {
        let mut copy = statement.clone();
        copy.guard = copy.guard.map(|(name, negated)| (rename(&name), negated));
        if copy.opcode == "ret" || copy.opcode.starts_with("ret.") {
            copy.opcode = "bra".into();
            copy.operands = vec![Operand::Name(end.clone())];
        } else {
            copy.operands = copy.operands.iter().map(|operand| renamed(operand, &rename)).collect();
        }
        out.body.push(copy);
    }
    out.labels.insert(end, out.body.len());
}

fn renamed(operand: &Operand, rename: &impl Fn(&String) -> String) -> Operand {
    let all = |list: &Vec<Operand>| list.iter().map(|operand| renamed(operand, rename)).collect();
    match operand {
        Operand::Name(name) => Operand::Name(rename(name)),
        Operand::Offset(name, offset) => Operand::Offset(rename(name), *offset),
        Operand::Number(text) => Operand::Number(text.clone()),
        Operand::Address(base, offset) => Operand::Address(Box::new(renamed(base, rename)), *offset),
        Operand::Vector(list) => Operand::Vector(all(list)),
        Operand::Pair(one, two) => Operand::Pair(Box::new(renamed(one, rename)), Box::new(renamed(two, rename))),
        Operand::Not(name) => Operand::Not(rename(name)),
        Operand::Group(list) => Operand::Group(all(list)),
    }
}
