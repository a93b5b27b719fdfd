//! Tokens → [`Module`]. Reads what NVRTC and LLVM's NVPTX back end write; debug tables and performance hints are skipped.

use std::collections::HashMap;

use super::lexer::{Token, tokens};
use super::{Function, Module, Operand, Origin, PtxError, Space, Statement, Type, Variable, number};

type Result<T> = std::result::Result<T, PtxError>;

pub(crate) fn parse(source: &str) -> Result<Module> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0, ..Parser::default() };
    while parser.at < parser.tokens.len() {
        parser.top_level()?;
    }
    if parser.module.version.is_empty() {
        return Err(PtxError::new(1, "no .version directive; this is not PTX"));
    }
    Ok(parser.module)
}

#[derive(Default)]
struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    origin: Origin,
    module: Module,
    /// The registers declared in the inner blocks around this place, by the name they have there.
    scopes: Vec<HashMap<String, String>>,
    renamed: usize,
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.1)
    }

    fn error<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(PtxError::new(self.line(), what))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|token| &token.0)
    }

    fn next(&mut self) -> Result<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token.ok_or_else(|| PtxError::new(self.line(), "the text ends in the middle of a statement"))
    }

    fn is_mark(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }

    fn take_mark(&mut self, mark: char) -> bool {
        let found = self.is_mark(mark);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<()> {
        if self.take_mark(mark) {
            return Ok(());
        }
        let found = self.peek().map_or("the end".into(), ToString::to_string);
        self.error(format!("expected `{mark}`, found {found}"))
    }

    fn word(&mut self) -> Result<String> {
        match self.next()? {
            Token::Word(text) => Ok(text),
            other => {
                self.at -= 1;
                self.error(format!("expected a name, found {other}"))
            }
        }
    }

    fn is_word(&self, text: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word == text)
    }

    fn take_word(&mut self, text: &str) -> bool {
        let found = self.is_word(text);
        self.at += usize::from(found);
        found
    }

    fn integer(&mut self) -> Result<u64> {
        let negative = self.take_mark('-');
        match self.next()? {
            Token::Number(text) => match number(&text, Type::U(64)) {
                Some(value) => Ok(if negative { value.wrapping_neg() } else { value }),
                None => self.error(format!("`{text}` is not an integer")),
            },
            other => self.error(format!("expected a number, found {other}")),
        }
    }

    /// Skips the tokens of this line and of the lines that a comma continues.
    fn skip_line(&mut self) {
        let mut line = self.line();
        while self.at < self.tokens.len() && self.line() == line {
            self.at += 1;
            if self.tokens[self.at - 1].0 == Token::Mark(',') {
                line = self.line();
            }
        }
    }

    /// Skips `{ … }`.
    fn skip_braces(&mut self) -> Result<()> {
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    // ---- module level ----

    fn top_level(&mut self) -> Result<()> {
        let mut is_extern = false;
        while self.is_word(".visible") || self.is_word(".weak") || self.is_word(".extern") || self.is_word(".common") {
            is_extern |= self.is_word(".extern");
            self.at += 1;
        }
        let Some(Token::Word(word)) = self.peek().cloned() else { return self.error("expected a directive") };
        match word.as_str() {
            ".version" => {
                self.at += 1;
                self.module.version = match self.next()? {
                    Token::Number(text) => text,
                    other => return self.error(format!("expected a version, found {other}")),
                };
            }
            ".target" => {
                self.at += 1;
                self.module.target = self.word()?;
                while self.take_mark(',') {
                    self.word()?;
                }
            }
            ".address_size" => {
                self.at += 1;
                if self.integer()? != 64 {
                    return self.error("only .address_size 64 is supported");
                }
            }
            ".file" => self.file()?,
            ".section" => {
                self.at += 2;
                self.skip_braces()?;
            }
            ".loc" | ".pragma" => self.skip_line(),
            ".entry" | ".func" => self.function(is_extern)?,
            ".global" | ".const" | ".shared" => {
                let variable = self.variable()?;
                self.expect(';')?;
                let declared = is_extern && variable.space != Space::Shared;
                if declared {
                    return self.error(format!("`{}` is declared .extern and nothing here links", variable.name));
                }
                self.module.variables.push(variable);
            }
            other => return self.error(format!("unknown directive `{other}`")),
        }
        Ok(())
    }

    fn file(&mut self) -> Result<()> {
        self.at += 1;
        let index = self.integer()? as u32;
        if let Token::Text(name) = self.next()? {
            self.module.files.insert(index, name);
        }
        while self.take_mark(',') {
            self.integer()?;
        }
        Ok(())
    }

    /// `.space [.align n] .type name[n] [= initial]`, without its end.
    fn variable(&mut self) -> Result<Variable> {
        let space = match self.word()?.as_str() {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            other => return self.error(format!("`{other}` is no state space")),
        };
        let (mut align, mut ty, mut vector, mut is_pointer) = (0, None, 1, false);
        while let Some(Token::Word(word)) = self.peek().cloned() {
            if !word.starts_with('.') {
                break;
            }
            self.at += 1;
            match word.as_str() {
                // After .ptr the alignment is the pointee's.
                ".align" => {
                    let value = self.integer()? as u32;
                    align = if is_pointer { align } else { value };
                }
                ".ptr" => is_pointer = true,
                ".global" | ".const" | ".shared" | ".local" | ".attribute" | ".managed" => {}
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                _ => match Type::parse(&word[1..]) {
                    Some(found) => ty = Some(found),
                    None => return self.error(format!("unknown attribute `{word}` of a variable")),
                },
            }
        }
        let Some(ty) = ty else { return self.error("a variable without a type") };
        let name = self.word()?;
        let (mut count, mut dynamic) = (1, false);
        while self.take_mark('[') {
            if self.take_mark(']') {
                dynamic = true;
                count = 0;
            } else {
                count *= self.integer()? as u32;
                self.expect(']')?;
            }
        }
        let element = ty.bytes() * vector;
        let initial = if self.take_mark('=') { Some(self.initial(ty)?) } else { None };
        let bytes = match &initial {
            Some(bytes) if dynamic => bytes.len() as u32,
            _ => element * count,
        };
        let dynamic = dynamic && initial.is_none();
        Ok(Variable { name, space, align: align.max(element.min(16)).max(1), bytes, initial, dynamic })
    }

    fn initial(&mut self, ty: Type) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut depth = 0;
        loop {
            if self.take_mark('{') {
                depth += 1;
            } else if self.take_mark('}') {
                depth -= 1;
            } else if !self.take_mark(',') {
                let sign = if self.take_mark('-') { "-" } else { "" };
                let text = match self.next()? {
                    Token::Number(text) => format!("{sign}{text}"),
                    other => return self.error(format!("an initial value {other} is not a number")),
                };
                let Some(value) = number(&text, ty) else { return self.error(format!("`{text}` is no {ty:?}")) };
                bytes.extend_from_slice(&value.to_le_bytes()[..ty.bytes() as usize]);
            }
            if depth == 0 {
                return Ok(bytes);
            }
        }
    }

    // ---- functions ----

    fn function(&mut self, is_extern: bool) -> Result<()> {
        let is_entry = self.word()? == ".entry";
        let mut function = Function { is_entry, ..Function::default() };
        if self.is_mark('(') {
            function.returns = self.parameters()?;
        }
        function.name = self.word()?;
        if self.is_mark('(') {
            function.params = self.parameters()?;
        }
        loop {
            match self.peek() {
                Some(Token::Mark('{')) => break,
                Some(Token::Mark(';')) => {
                    self.at += 1; // a declaration
                    return Ok(());
                }
                Some(Token::Word(word)) if matches!(word.as_str(), ".maxntid" | ".reqntid") => {
                    self.at += 1;
                    function.max_threads = self.integer()? as u32;
                    while self.take_mark(',') {
                        function.max_threads *= self.integer()? as u32;
                    }
                }
                Some(_) => self.at += 1, // .minnctapersm 2, .maxnreg 64, .noreturn, .pragma "…"
                None => return self.error("a function without a body"),
            }
        }
        if is_extern {
            return self.error(format!("function `{}` is .extern and has a body", function.name));
        }
        self.origin = Origin::default();
        self.body(&mut function)?;
        self.module.functions.push(function);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Vec<Variable>> {
        self.expect('(')?;
        let mut found = Vec::new();
        while !self.take_mark(')') {
            if self.is_word(".reg") {
                self.at += 2;
                self.word()?;
            } else {
                found.push(self.variable()?);
            }
            self.take_mark(',');
        }
        Ok(found)
    }

    fn body(&mut self, function: &mut Function) -> Result<()> {
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            if self.take_mark('{') {
                depth += 1;
                self.scopes.push(HashMap::new());
                continue;
            }
            if self.take_mark('}') {
                depth -= 1;
                self.scopes.pop();
                continue;
            }
            match self.peek().cloned() {
                Some(Token::Word(word)) if word == ".loc" => self.location()?,
                Some(Token::Word(word)) if word == ".pragma" || word == ".file" => self.skip_line(),
                Some(Token::Word(word)) if word == ".reg" => self.registers(function)?,
                Some(Token::Word(word)) if matches!(word.as_str(), ".shared" | ".local" | ".param") => {
                    let mut variable = self.variable()?;
                    self.expect(';')?;
                    variable.name = self.declare(variable.name);
                    function.variables.push(variable);
                }
                Some(Token::Word(word)) if word.starts_with('.') => {
                    return self.error(format!("unknown directive `{word}` in a function"));
                }
                Some(Token::Word(word)) if self.tokens.get(self.at + 1).map(|t| &t.0) == Some(&Token::Mark(':')) => {
                    self.at += 2;
                    if self.take_word(".branchtargets") {
                        let targets = self.operands()?.into_iter().map(|operand| match operand {
                            Operand::Name(name) => Ok(name),
                            _ => self.error("a branch target is a label"),
                        });
                        let targets = targets.collect::<Result<Vec<String>>>()?;
                        function.tables.insert(word, targets);
                    } else if let Some(_twice) = function.labels.insert(word.clone(), function.body.len()) {
                        return self.error(format!("label `{word}` stands twice"));
                    }
                }
                _ => {
                    let statement = self.statement()?;
                    function.body.push(statement);
                }
            }
        }
        Ok(())
    }

    fn location(&mut self) -> Result<()> {
        self.at += 1;
        self.origin.file = self.integer()? as u32;
        self.origin.line = self.integer()? as u32;
        self.skip_line();
        Ok(())
    }

    /// `.reg .b32 %r<12>, %x;`
    fn registers(&mut self, function: &mut Function) -> Result<()> {
        self.at += 1;
        let word = self.word()?;
        let Some(ty) = Type::parse(word.trim_start_matches('.')) else {
            return self.error(format!("registers of unknown type `{word}`"));
        };
        if ty.bits() == 128 {
            return self.error("128-bit registers are not supported");
        }
        loop {
            let name = self.word()?;
            let names = if self.take_mark('<') {
                let count = self.integer()?;
                self.expect('>')?;
                (0..count).map(|i| format!("{name}{i}")).collect()
            } else {
                vec![name]
            };
            for name in names {
                let own = self.declare(name);
                function.registers.push((own, ty));
            }
            if !self.take_mark(',') {
                return self.expect(';');
            }
        }
    }

    /// The unique name of a register declared here: an inner block may repeat a name.
    fn declare(&mut self, name: String) -> String {
        let Some(scope) = self.scopes.last_mut() else { return name };
        self.renamed += 1;
        let own = format!("{name}#{}", self.renamed);
        scope.insert(name, own.clone());
        own
    }

    /// What the register is called outside all blocks.
    fn resolve(&self, name: String) -> String {
        self.scopes.iter().rev().find_map(|scope| scope.get(&name).cloned()).unwrap_or(name)
    }

    fn register(&mut self) -> Result<String> {
        let name = self.word()?;
        Ok(self.resolve(name))
    }

    fn statement(&mut self) -> Result<Statement> {
        let mut origin = self.origin;
        origin.ptx_line = self.line();
        let guard = if self.take_mark('@') {
            let negated = self.take_mark('!');
            Some((self.register()?, negated))
        } else {
            None
        };
        let opcode = self.word()?;
        let operands = self.operands()?;
        Ok(Statement { guard, opcode, operands, origin })
    }

    /// Operands up to the semicolon.
    fn operands(&mut self) -> Result<Vec<Operand>> {
        if self.take_mark(';') {
            return Ok(Vec::new());
        }
        let mut found = vec![self.operand()?];
        while self.take_mark(',') {
            found.push(self.operand()?);
        }
        self.expect(';')?;
        Ok(found)
    }

    fn list(&mut self, end: char) -> Result<Vec<Operand>> {
        let mut found = Vec::new();
        while !self.take_mark(end) {
            found.push(self.operand()?);
            self.take_mark(',');
        }
        Ok(found)
    }

    fn operand(&mut self) -> Result<Operand> {
        if self.take_mark('{') {
            return Ok(Operand::Vector(self.list('}')?));
        }
        if self.take_mark('(') {
            return Ok(Operand::Group(self.list(')')?));
        }
        if self.take_mark('!') {
            return Ok(Operand::Not(self.register()?));
        }
        if self.take_mark('[') {
            let base = self.operand()?;
            self.expect(']')?;
            return Ok(match base {
                Operand::Offset(name, offset) => Operand::Address(Box::new(Operand::Name(name)), offset),
                base => Operand::Address(Box::new(base), 0),
            });
        }
        let sign = if self.take_mark('-') { "-" } else { "" };
        match self.next()? {
            Token::Number(text) => Ok(Operand::Number(format!("{sign}{text}"))),
            Token::Word(name) if sign.is_empty() => {
                let name = self.resolve(name);
                if self.take_mark('|') {
                    let second = self.operand()?;
                    return Ok(Operand::Pair(Box::new(Operand::Name(name)), Box::new(second)));
                }
                if self.take_mark('+') {
                    return Ok(Operand::Offset(name, self.integer()? as i64));
                }
                if self.is_mark('-') && matches!(self.tokens.get(self.at + 1), Some((Token::Number(_), _))) {
                    return Ok(Operand::Offset(name, self.integer()? as i64));
                }
                Ok(Operand::Name(name))
            }
            other => self.error(format!("expected an operand, found {other}")),
        }
    }
}
