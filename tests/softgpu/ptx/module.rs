//! What a PTX file says, before it is decoded: declarations, and bodies as instructions with named operands.

use std::collections::HashMap;

/// The scalar type of a variable, a register or the end of an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Pred,
    /// Untyped, signed, unsigned and floating, with their widths in bits.
    B(u8),
    S(u8),
    U(u8),
    F(u8),
    Bf16,
    /// Two halves in 32 bits.
    F16x2,
    Bf16x2,
    Tf32,
}

impl Type {
    /// Reads `u32`, `bf16x2`, `pred`, without the dot.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pred" => Type::Pred,
            "bf16" => Type::Bf16,
            "f16x2" => Type::F16x2,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            _ => {
                let bits: u8 = text.get(1..)?.parse().ok()?;
                let known = matches!(bits, 8 | 16 | 32 | 64 | 128);
                match text.as_bytes()[0] {
                    b'b' if known => Type::B(bits),
                    b's' if known => Type::S(bits),
                    b'u' if known => Type::U(bits),
                    b'f' if known && bits > 8 => Type::F(bits),
                    _ => return None,
                }
            }
        })
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Type::Pred => 1,
            Type::B(bits) | Type::S(bits) | Type::U(bits) | Type::F(bits) => u32::from(bits),
            Type::Bf16 => 16,
            Type::F16x2 | Type::Bf16x2 | Type::Tf32 => 32,
        }
    }

    pub(crate) fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Local,
    Const,
    Param,
    /// An address that says itself where it points.
    Generic,
}

/// A variable, a parameter, or an array of either.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) align: u32,
    pub(crate) bytes: u32,
    /// The initial bytes of a module-level variable; shorter than `bytes` where zeros follow.
    pub(crate) initial: Option<Vec<u8>>,
    /// Whether it is `.extern .shared x[]`: as long as the launch asks for.
    pub(crate) dynamic: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A register, variable or label.
    Name(String),
    /// `name+4`
    Offset(String, i64),
    /// A number as written, sign included.
    Number(String),
    /// `[base+offset]`
    Address(Box<Operand>, i64),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `p|q`
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`
    Not(String),
    /// `(a, b)` of a call
    Group(Vec<Operand>),
}

/// Where an instruction comes from: the line of its kernel's source if `.loc` says so, and its line in the PTX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) ptx_line: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// The guarding predicate, and whether it is negated.
    pub(crate) guard: Option<(String, bool)>,
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
    pub(crate) origin: Origin,
}

impl Statement {
    /// The parts of the opcode between its dots.
    pub(crate) fn parts(&self) -> Vec<&str> {
        self.opcode.split('.').collect()
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) is_entry: bool,
    pub(crate) params: Vec<Variable>,
    pub(crate) returns: Vec<Variable>,
    /// Registers in order of declaration.
    pub(crate) registers: Vec<(String, Type)>,
    /// Variables declared in the body.
    pub(crate) variables: Vec<Variable>,
    pub(crate) body: Vec<Statement>,
    /// Label → index into `body`.
    pub(crate) labels: HashMap<String, usize>,
    /// `.branchtargets` lists by label.
    pub(crate) tables: HashMap<String, Vec<String>>,
    /// The product of `.maxntid` or `.reqntid`; 0 if neither stands.
    pub(crate) max_threads: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Module {
    pub(crate) version: String,
    pub(crate) target: String,
    pub(crate) files: HashMap<u32, String>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) functions: Vec<Function>,
}
