//! A parsed kernel → instructions ready to run: registers are slots, labels are indices, every opcode is known.

mod memory;
mod operands;
mod simple;
mod warp;

use crate::alu::{self, Alu, Conversion, Test};
use crate::mma::Shape;
use crate::numeric::Rounding;
use crate::ptx::{Function, Module, Origin, PtxError, Space, Statement};
use operands::Operands;
pub(crate) use operands::{Special, Symbols};

/// A predicate register, perhaps negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pred {
    pub(crate) index: u32,
    pub(crate) negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// The memory operand of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    /// The register with the base address, and whether it has 64 bits.
    pub(crate) base: u32,
    pub(crate) wide_base: bool,
    pub(crate) offset: i64,
    /// The base is a variable, so the address is the same in every lane.
    pub(crate) fixed: bool,
    /// Bytes of one element, and how many elements a lane touches.
    pub(crate) width: u8,
    pub(crate) count: u8,
    pub(crate) signed: bool,
    pub(crate) wide_registers: bool,
    /// `.relaxed`, `.acquire`, `.volatile` and their kin: ordered by the memory model, so no race.
    pub(crate) strong: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    Increment,
    Decrement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    /// Counts the predicate, or combines it.
    Popc,
    And,
    Or,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Alu,
    /// A move: it may carry an uninitialised value on without using it.
    Move,
    /// `preds[0]`, and `preds[1]` for the complement, from a comparison combined with `preds[2]`.
    SetPredicate(Option<Logic>),
    Select {
        wide: bool,
    },
    /// `preds[0] = preds[1] op preds[2]`; without a logic, `preds[0] = preds[1]`.
    Predicate(Option<Logic>),
    PredicateConstant(bool),
    TestClass(Class),
    Pack {
        bits: u8,
    },
    Unpack {
        bits: u8,
    },
    Branch(u32),
    /// A table of targets, by number.
    BranchTable(u32),
    Exit,
    Trap,
    Barrier {
        kind: BarrierKind,
        /// Whether all threads of a warp must arrive together.
        aligned: bool,
        /// Whether a thread count is given, in `r`'s last source.
        counted: bool,
    },
    BarrierWarp,
    Load(Access),
    Store(Access),
    /// The flag says whether the old value is wanted.
    Atomic(Access, AtomicOp, Number, bool),
    CpAsync {
        to: Access,
        from: Access,
    },
    CpCommit,
    CpWait(u32),
    LdMatrix {
        from: Access,
        transposed: bool,
    },
    StMatrix {
        to: Access,
        transposed: bool,
    },
    MovMatrix,
    Mma(Shape),
    Shuffle(ShuffleMode),
    Vote(VoteMode),
    Match {
        all: bool,
        wide: bool,
    },
    Reduce(AtomicOp, bool),
    ActiveMask,
    Fence,
    Nop,
}

/// What `testp` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// How an atomic reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Unsigned,
    Signed,
    F32,
    F64,
    F16x2,
    Bf16x2,
}

/// No predicate.
pub(crate) const ALWAYS: u32 = u32::MAX;
const NO_PRED: Pred = Pred { index: ALWAYS, negated: false };

#[derive(Clone, Debug)]
pub(crate) struct Ins {
    pub(crate) op: Op,
    pub(crate) f: Alu,
    pub(crate) test: Test,
    /// Destinations, then sources.
    pub(crate) r: [u32; 18],
    pub(crate) targets: u8,
    pub(crate) count: u8,
    pub(crate) guard: Pred,
    pub(crate) preds: [Pred; 3],
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) relu: bool,
    /// Two halves in one register.
    pub(crate) paired: bool,
    /// A conversion to an integral floating value.
    pub(crate) integral: bool,
    pub(crate) rounding: Rounding,
    pub(crate) conversion: Option<Conversion>,
    /// The opcode, as an index into the kernel's names.
    pub(crate) name: u16,
    pub(crate) origin: Origin,
}

impl Ins {
    pub(crate) fn targets(&self) -> &[u32] {
        &self.r[..self.targets as usize]
    }

    pub(crate) fn sources(&self) -> &[u32] {
        &self.r[self.targets as usize..(self.targets + self.count) as usize]
    }

    fn set_operands(&mut self, targets: &[u32], sources: &[u32]) {
        self.targets = targets.len() as u8;
        self.count = sources.len() as u8;
        for (place, slot) in self.r.iter_mut().zip(targets.iter().chain(sources)) {
            *place = *slot;
        }
    }
}

pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Ins>,
    pub(crate) opcodes: Vec<String>,
    pub(crate) tables: Vec<Vec<u32>>,
    pub(crate) files: std::collections::HashMap<u32, String>,
    pub(crate) slots: usize,
    pub(crate) predicates: usize,
    /// Slots that hold a constant; the flag marks 64 bits.
    pub(crate) constants: Vec<(u32, u64, bool)>,
    pub(crate) specials: Vec<(Special, u32)>,
    /// Offset and size of each parameter.
    pub(crate) params: Vec<(u32, u32)>,
    pub(crate) param_bytes: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) local_bytes: u32,
    pub(crate) max_threads: u32,
    /// The narrowest access to shared and to global memory: what the race checks count in.
    pub(crate) shared_granule: u32,
    pub(crate) global_granule: u32,
}

impl Kernel {
    /// `file.cu:12`, or the PTX line where the source is not known.
    pub(crate) fn place(&self, origin: Origin) -> String {
        match self.files.get(&origin.file) {
            Some(file) => format!("{}:{}", file.rsplit('/').next().unwrap_or(file), origin.line),
            None => format!("ptx line {}", origin.ptx_line),
        }
    }
}

/// Refuses: the opcode and its line, and why.
pub(crate) fn refuse(statement: &Statement, why: &str) -> PtxError {
    PtxError::new(statement.origin.ptx_line, format!("opcode `{}`: {why}", statement.opcode))
}

/// Decodes an entry of `module`; `symbols` are the addresses of its module-level variables.
pub(crate) fn kernel(module: &Module, function: &Function, symbols: &Symbols) -> Result<Kernel, PtxError> {
    let mut operands = Operands::new(module, function, symbols)?;
    let (mut code, mut opcodes, mut tables): (Vec<Ins>, Vec<String>, Vec<Vec<u32>>) = Default::default();
    let mut table_index = std::collections::HashMap::new();
    for (label, targets) in &function.tables {
        let targets = targets.iter().map(|target| operands.label(target)).collect::<Result<Vec<u32>, _>>();
        table_index.insert(label.clone(), tables.len() as u32);
        tables.push(targets.map_err(|why| PtxError::new(1, why))?);
    }
    operands.tables = table_index;
    for statement in &function.body {
        let mut ins = decode(&mut operands, statement)?;
        ins.name = opcodes.iter().position(|name| *name == statement.opcode).unwrap_or_else(|| {
            opcodes.push(statement.opcode.clone());
            opcodes.len() - 1
        }) as u16;
        code.push(ins);
    }
    let mut end = blank(&Statement {
        guard: None,
        opcode: "ret".into(),
        operands: Vec::new(),
        origin: code.last().map(|ins| ins.origin).unwrap_or_default(),
    });
    end.op = Op::Exit;
    code.push(end);
    if opcodes.is_empty() {
        opcodes.push("ret".into());
    }
    Ok(operands.finish(function, module, code, opcodes, tables))
}

pub(crate) fn blank(statement: &Statement) -> Ins {
    fn nothing(_: &mut crate::regs::Regs, _: &Ins, _: u32) {}
    fn never(_: &crate::regs::Regs, _: &Ins) -> u32 {
        0
    }
    Ins {
        op: Op::Nop,
        f: nothing,
        test: never,
        r: [0; 18],
        targets: 0,
        count: 0,
        guard: NO_PRED,
        preds: [NO_PRED; 3],
        ftz: false,
        sat: false,
        relu: false,
        paired: false,
        integral: false,
        rounding: Rounding::Nearest,
        conversion: None,
        name: 0,
        origin: statement.origin,
    }
}

fn decode(operands: &mut Operands, statement: &Statement) -> Result<Ins, PtxError> {
    let parts = statement.parts();
    let mut ins = blank(statement);
    ins.ftz = parts.contains(&"ftz");
    ins.sat = parts.contains(&"sat");
    ins.relu = parts.contains(&"relu");
    ins.rounding = Rounding::find(&parts).unwrap_or_default();
    if let Some((name, negated)) = &statement.guard {
        ins.guard = operands.predicate(name, *negated).map_err(|why| refuse(statement, &why))?;
    }
    let done = simple::decode(operands, statement, &parts, &mut ins)
        .or_else(|| memory::decode(operands, statement, &parts, &mut ins))
        .or_else(|| warp::decode(operands, statement, &parts, &mut ins))
        .unwrap_or_else(|| simple::arithmetic(operands, statement, &parts, &mut ins));
    done.map_err(|why| refuse(statement, &why))?;
    Ok(ins)
}

/// What a family's decoder answers: nothing if the opcode is not of the family.
type Decoded = Option<Result<(), String>>;

pub(crate) fn alu_for(parts: &[&str]) -> Option<Alu> {
    alu::find(parts)
}
