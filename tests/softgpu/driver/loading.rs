//! Modules: parse, place the variables, decode.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Code, Gpu, INVALID_PTX, NO_BINARY_FOR_GPU, OUT_OF_MEMORY};
use crate::decode::{Kernel, Symbols, kernel};
use crate::ptx::{Space, inlined, parse};

pub(crate) struct Loaded {
    pub(crate) kernels: Vec<Kernel>,
    /// Address and size of the module's variables.
    pub(crate) variables: HashMap<String, (u64, u64)>,
}

const ELF: [u8; 4] = [0x7f, b'E', b'L', b'F'];
const FATBIN: [u8; 4] = 0xba55_ed50u32.to_le_bytes();

impl Gpu {
    /// Loads PTX, and refuses compiled code, as a driver does that knows no such processor; the message says why.
    pub(crate) fn load(&mut self, image: &[u8]) -> Result<usize, Code> {
        self.message.clear();
        if image.starts_with(&ELF) || image.starts_with(&FATBIN) {
            self.message = "compiled code does not run here, only PTX".into();
            return Err(NO_BINARY_FOR_GPU);
        }
        let refuse = |gpu: &mut Gpu, message: String| {
            eprintln!("[softgpu] {message}");
            gpu.message = message;
            INVALID_PTX
        };
        let text = std::str::from_utf8(image).map_err(|_| refuse(self, "the module is no text".into()))?;
        let module = parse(text).map_err(|error| refuse(self, error.to_string()))?;
        let mut symbols = Symbols::new();
        let mut variables = HashMap::new();
        for variable in module.variables.iter().filter(|v| v.space != Space::Shared) {
            let bytes = u64::from(variable.bytes.max(1));
            let address = self.memory.allocate(bytes).ok_or(OUT_OF_MEMORY)?;
            // What is not initialised is zero.
            let mut initial = variable.initial.clone().unwrap_or_default();
            initial.resize(bytes as usize, 0);
            self.memory.write(address, &initial);
            symbols.insert(variable.name.clone(), address);
            variables.insert(variable.name.clone(), (address, u64::from(variable.bytes)));
        }
        let entries = module.functions.iter().filter(|function| function.is_entry);
        let decode = |function| kernel(&module, &inlined(&module, function)?, &symbols);
        let kernels = entries.map(decode).collect::<Result<Vec<_>, _>>();
        let kernels = match kernels {
            Ok(kernels) => kernels,
            Err(error) => {
                for (address, _) in variables.into_values() {
                    self.memory.free(address);
                }
                return Err(refuse(self, error.to_string()));
            }
        };
        let handle = self.handle();
        self.modules.insert(handle, Arc::new(Loaded { kernels, variables }));
        Ok(handle)
    }
}
