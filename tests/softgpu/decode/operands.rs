//! Names → slots: registers, constants, special registers, and the addresses of variables.

use std::collections::HashMap;

use super::{Access, Ins, Kernel, Pred};
use crate::memory::LOCAL_WINDOW;
use crate::ptx::{Function, Module, Operand, PtxError, Space, Statement, Type, Variable, number};

/// Module-level variables of global and constant memory, and where they lie.
pub(crate) type Symbols = HashMap<String, u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    /// Thread, block size, block, grid size; x, y, z are 0, 1, 2.
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Warps,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    DynamicShared,
    TotalShared,
    /// Clocks and processor numbers: there is neither here.
    Zero,
}

impl Special {
    fn parse(name: &str) -> Option<Self> {
        let axis = |name: &str| {
            Some(match name.rsplit('.').next()? {
                "x" => 0,
                "y" => 1,
                "z" => 2,
                _ => return None,
            })
        };
        let stem = name.split('.').next()?;
        Some(match stem {
            "%tid" => Special::Tid(axis(name)?),
            "%ntid" => Special::Ntid(axis(name)?),
            "%ctaid" => Special::Ctaid(axis(name)?),
            "%nctaid" => Special::Nctaid(axis(name)?),
            "%laneid" => Special::Lane,
            "%warpid" => Special::Warp,
            "%nwarpid" => Special::Warps,
            "%lanemask_eq" => Special::MaskEq,
            "%lanemask_lt" => Special::MaskLt,
            "%lanemask_le" => Special::MaskLe,
            "%lanemask_gt" => Special::MaskGt,
            "%lanemask_ge" => Special::MaskGe,
            "%dynamic_smem_size" => Special::DynamicShared,
            "%total_smem_size" => Special::TotalShared,
            "%smid" | "%nsmid" | "%gridid" | "%clock" | "%clock_hi" | "%clock64" | "%globaltimer" => Special::Zero,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy)]
enum Register {
    Slot { slot: u32, ty: Type },
    Pred(u32),
}

type Result<T> = std::result::Result<T, String>;

pub(crate) struct Operands<'a> {
    registers: HashMap<String, Register>,
    symbols: HashMap<String, (Space, u64)>,
    labels: &'a HashMap<String, usize>,
    /// Branch tables by label.
    pub(crate) tables: HashMap<String, u32>,
    constants: HashMap<(u64, bool), u32>,
    specials: HashMap<Special, u32>,
    slots: u32,
    predicates: u32,
    params: Vec<(u32, u32)>,
    param_bytes: u32,
    shared_bytes: u32,
    local_bytes: u32,
    pub(crate) shared_granule: u32,
    pub(crate) global_granule: u32,
}

impl<'a> Operands<'a> {
    pub(crate) fn new(
        module: &Module,
        function: &'a Function,
        symbols: &Symbols,
    ) -> std::result::Result<Self, PtxError> {
        let mut own = Operands {
            registers: HashMap::new(),
            symbols: HashMap::new(),
            labels: &function.labels,
            tables: HashMap::new(),
            constants: HashMap::new(),
            specials: HashMap::new(),
            slots: 0,
            predicates: 0,
            params: Vec::new(),
            param_bytes: 0,
            shared_bytes: 0,
            local_bytes: 0,
            shared_granule: 16,
            global_granule: 16,
        };
        for (name, ty) in &function.registers {
            own.declare(name, *ty)?;
        }
        for variable in &module.variables {
            if let Some(&address) = symbols.get(&variable.name) {
                own.symbols.insert(variable.name.clone(), (Space::Global, address));
            }
        }
        for param in &function.params {
            let offset = own.param_bytes.next_multiple_of(param.align);
            own.params.push((offset, param.bytes));
            own.param_bytes = offset + param.bytes;
            own.symbols.insert(param.name.clone(), (Space::Param, u64::from(offset)));
        }
        own.lay_out(module, function);
        Ok(own)
    }

    fn declare(&mut self, name: &str, ty: Type) -> std::result::Result<(), PtxError> {
        let register = if ty == Type::Pred {
            self.predicates += 1;
            Register::Pred(self.predicates - 1)
        } else {
            let slot = self.new_slot(ty.bits() == 64);
            Register::Slot { slot, ty }
        };
        match self.registers.insert(name.to_string(), register) {
            None => Ok(()),
            Some(_) => Err(PtxError::new(1, format!("register `{name}` is declared twice"))),
        }
    }

    fn new_slot(&mut self, wide: bool) -> u32 {
        let slot = self.slots;
        self.slots += 1 + u32::from(wide);
        slot
    }

    /// Places the variables of shared and local memory: those of the body, and those of the module that the body names.
    fn lay_out(&mut self, module: &Module, function: &Function) {
        let used = |variable: &&Variable| {
            variable.space == Space::Shared
                && function.body.iter().any(|statement| statement.operands.iter().any(|o| names(o, &variable.name)))
        };
        let outer: Vec<&Variable> = module.variables.iter().filter(used).collect();
        let all = || function.variables.iter().chain(outer.iter().copied());
        // What the launch sizes comes last.
        for variable in all().filter(|v| !v.dynamic).chain(all().filter(|v| v.dynamic)) {
            let (space, bytes) = match variable.space {
                Space::Shared => (Space::Shared, &mut self.shared_bytes),
                _ => (Space::Local, &mut self.local_bytes),
            };
            let offset = bytes.next_multiple_of(variable.align);
            *bytes = offset + variable.bytes;
            self.symbols.insert(variable.name.clone(), (space, u64::from(offset)));
        }
    }

    // ---- operands ----

    /// The slot of a source of type `ty`.
    pub(crate) fn source(&mut self, operand: &Operand, ty: Type) -> Result<u32> {
        let wide = ty.bits() == 64;
        match operand {
            Operand::Name(name) => {
                if let Some(found) = self.registers.get(name) {
                    return match *found {
                        Register::Slot { slot, ty: own } if (own.bits() == 64) == wide => Ok(slot),
                        Register::Slot { ty: own, .. } => {
                            Err(format!("register `{name}` has {} bits, {} are wanted", own.bits(), ty.bits()))
                        }
                        Register::Pred(_) => Err(format!("`{name}` is a predicate")),
                    };
                }
                if let Some(special) = Special::parse(name) {
                    return if wide && special != Special::Zero {
                        Err(format!("`{name}` has 32 bits"))
                    } else {
                        Ok(self.special(special))
                    };
                }
                if name == "WARP_SZ" {
                    return Ok(self.constant(32, wide));
                }
                self.address_of(name, 0).map(|value| self.constant(value, wide))
            }
            Operand::Offset(name, offset) => self.address_of(name, *offset).map(|value| self.constant(value, wide)),
            Operand::Number(text) => {
                let as_written = match ty {
                    Type::F(32 | 64) => ty,
                    _ => Type::B(64),
                };
                let value = number(text, as_written).ok_or_else(|| format!("`{text}` is no {ty:?}"))?;
                let value = if ty.bits() >= 64 { value } else { value & ((1 << ty.bits()) - 1) };
                Ok(self.constant(value, wide))
            }
            _ => Err("a register or a constant is expected".into()),
        }
    }

    fn address_of(&self, name: &str, offset: i64) -> Result<u64> {
        let (_, value) = self.symbols.get(name).ok_or_else(|| format!("`{name}` is not declared"))?;
        Ok(value.wrapping_add_signed(offset))
    }

    /// The slot of a destination; `_` takes what nobody reads.
    pub(crate) fn target(&mut self, operand: &Operand, ty: Type) -> Result<u32> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(self.new_slot(ty.bits() == 64)),
            Operand::Name(name) if self.registers.contains_key(name) => self.source(operand, ty),
            _ => Err("a register is expected as destination".into()),
        }
    }

    /// The declared width of a register in bits; `ty`'s for anything else.
    pub(crate) fn width(&self, operand: &Operand, ty: Type) -> u32 {
        match operand {
            Operand::Name(name) => match self.registers.get(name) {
                Some(Register::Slot { ty, .. }) => ty.bits().max(32),
                _ => ty.bits(),
            },
            _ => ty.bits(),
        }
    }

    pub(crate) fn is_predicate(&self, operand: &Operand) -> bool {
        matches!(operand, Operand::Not(_))
            || matches!(operand, Operand::Name(name) if matches!(self.registers.get(name), Some(Register::Pred(_))))
    }

    pub(crate) fn constant(&mut self, value: u64, wide: bool) -> u32 {
        if let Some(&slot) = self.constants.get(&(value, wide)) {
            return slot;
        }
        let slot = self.new_slot(wide);
        self.constants.insert((value, wide), slot);
        slot
    }

    fn special(&mut self, special: Special) -> u32 {
        if let Some(&slot) = self.specials.get(&special) {
            return slot;
        }
        let slot = self.new_slot(special == Special::Zero);
        self.specials.insert(special, slot);
        slot
    }

    pub(crate) fn predicate(&mut self, name: &str, negated: bool) -> Result<Pred> {
        if name == "_" {
            self.predicates += 1;
            return Ok(Pred { index: self.predicates - 1, negated });
        }
        match self.registers.get(name) {
            Some(&Register::Pred(index)) => Ok(Pred { index, negated }),
            _ => Err(format!("`{name}` is no predicate")),
        }
    }

    /// A predicate operand: `p` or `!p`.
    pub(crate) fn predicate_operand(&mut self, operand: &Operand) -> Result<Pred> {
        match operand {
            Operand::Name(name) => self.predicate(name, false),
            Operand::Not(name) => self.predicate(name, true),
            _ => Err("a predicate is expected".into()),
        }
    }

    pub(crate) fn label(&self, name: &str) -> Result<u32> {
        self.labels.get(name).map(|&at| at as u32).ok_or_else(|| format!("label `{name}` is not here"))
    }

    /// The elements of `{a, b}`, or the operand itself.
    pub(crate) fn list<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(list) => list,
            other => std::slice::from_ref(other),
        }
    }

    /// An access through `[base+offset]`, of one element of `width` bytes.
    pub(crate) fn access(&mut self, operand: &Operand, space: Space, width: u32) -> Result<Access> {
        let Operand::Address(base, offset) = operand else { return Err("an address is expected".into()) };
        let (mut space, mut offset, mut fixed) = (space, *offset, false);
        let (slot, wide) = match &**base {
            Operand::Name(name) if self.registers.contains_key(name) => {
                let wide = self.width(base, Type::B(32)) == 64;
                (self.source(base, Type::B(if wide { 64 } else { 32 }))?, wide)
            }
            Operand::Name(name) => {
                let (own, value) = *self.symbols.get(name).ok_or_else(|| format!("`{name}` is not declared"))?;
                // A generic access to a named variable, and parameters of calls, which lie in local memory.
                let found = if space == Space::Generic || own == Space::Local { own } else { space };
                if found != own && !(own == Space::Global && found == Space::Const) {
                    return Err(format!("`{name}` lies in {own:?} memory"));
                }
                space = found;
                fixed = true;
                offset = offset.wrapping_add(value as i64);
                (self.constant(0, true), true)
            }
            Operand::Number(_) => (self.source(base, Type::B(64))?, true),
            _ => return Err("an address is a register, a variable or a number".into()),
        };
        Ok(Access {
            space: if space == Space::Const { Space::Global } else { space },
            base: slot,
            wide_base: wide,
            offset,
            fixed,
            width: width as u8,
            count: 1,
            signed: false,
            wide_registers: false,
            strong: false,
        })
    }

    /// Notes how narrow the kernel's accesses are.
    pub(crate) fn note_width(&mut self, space: Space, bytes: u32) {
        if matches!(space, Space::Shared | Space::Generic) {
            self.shared_granule = self.shared_granule.min(bytes);
        }
        if matches!(space, Space::Global | Space::Generic) {
            self.global_granule = self.global_granule.min(bytes);
        }
    }

    pub(crate) fn finish(
        self,
        function: &Function,
        module: &Module,
        code: Vec<Ins>,
        opcodes: Vec<String>,
        tables: Vec<Vec<u32>>,
    ) -> Kernel {
        let mut constants: Vec<_> =
            self.constants.into_iter().map(|((value, wide), slot)| (slot, value, wide)).collect();
        constants.sort_unstable();
        debug_assert!(u64::from(self.local_bytes) < LOCAL_WINDOW);
        Kernel {
            name: function.name.clone(),
            code,
            opcodes,
            tables,
            files: module.files.clone(),
            slots: self.slots as usize,
            predicates: self.predicates as usize,
            constants,
            specials: self.specials.into_iter().collect(),
            params: self.params,
            param_bytes: self.param_bytes,
            shared_bytes: self.shared_bytes,
            local_bytes: self.local_bytes,
            max_threads: function.max_threads,
            shared_granule: self.shared_granule,
            global_granule: self.global_granule,
        }
    }
}

/// Whether the operand names the variable.
fn names(operand: &Operand, variable: &str) -> bool {
    match operand {
        Operand::Name(name) | Operand::Offset(name, _) => name == variable,
        Operand::Address(base, _) => names(base, variable),
        Operand::Vector(list) | Operand::Group(list) => list.iter().any(|operand| names(operand, variable)),
        _ => false,
    }
}

/// The operand at `index`, or an error that says how many there should be.
pub(crate) fn operand(statement: &Statement, index: usize) -> Result<&Operand> {
    statement
        .operands
        .get(index)
        .ok_or_else(|| format!("{} operands, at least {} are wanted", statement.operands.len(), index + 1))
}
