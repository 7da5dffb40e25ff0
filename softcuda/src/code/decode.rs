//! A kernel's text to [`Code`]: statements, labels and what directives say of the instruction after
//! them.
use std::collections::HashMap;
use std::ops::Range;

use super::build::operation;
use super::names::Names;
use super::operation::{Code, Instruction, Op, Pred};
use super::rank::{leads, rank};
use crate::device::latency;
use crate::fault::Fault;
use crate::ptx::{Kernel, Kind, Module, Opcode, Statement, Ty};

struct Decoder<'m> {
    names: Names<'m>,
    labels: HashMap<String, u32>,
    /// Branches whose targets are filled in at the end, and the label that each one names.
    wanted: Vec<(usize, String)>,
    /// The bytes that the next load's result is used of (`.pragma "used_bytes_mask"`).
    used: Option<u64>,
}

/// Decodes a kernel, `globals` being the addresses of the module's variables.
pub(crate) fn decode(module: &Module, kernel: &Kernel, globals: &HashMap<String, u64>) -> Result<Code, Fault> {
    let params = kernel.param_names.iter().zip(&kernel.params);
    let names = Names::new(module, globals, params.map(|(name, place)| (name.as_str(), place.offset)));
    let mut decoder = Decoder { names, labels: HashMap::new(), wanted: Vec::new(), used: None };
    for statement in Statement::split(module.source(), kernel.body.clone()) {
        decoder.statement(&statement, module.text(&statement.text))?;
    }
    let end = kernel.body.end;
    decoder.push(None, Op::Exit, 0, end..end);
    decoder.link()?;
    let mut code = decoder.names.code;
    code.rank = rank(&code.instructions);
    code.leads = leads(&code.instructions);
    Ok(code)
}

impl Decoder<'_> {
    fn push(&mut self, guard: Option<Pred>, op: Op, cycles: u64, text: Range<usize>) {
        self.names.code.instructions.push(Instruction::new(guard, op, cycles, text));
    }

    fn statement(&mut self, statement: &Statement, text: &str) -> Result<(), Fault> {
        match statement.kind {
            Kind::Open => self.names.open(),
            Kind::Close => self.names.close(),
            Kind::Label => {
                if self.labels.insert(text.to_owned(), self.names.code.instructions.len() as u32).is_some() {
                    return Err(Fault::bad_module(format!("label {text} is defined twice")));
                }
            }
            Kind::Directive if text.starts_with(".pragma") => {
                let mask = text.split_once("used_bytes_mask").map(|(_, mask)| mask.trim().trim_matches('"').trim());
                self.used = mask.and_then(|mask| Ty::B64.literal(mask));
            }
            Kind::Directive => self.names.declare(text)?,
            Kind::Instruction => {
                self.instruction(text, statement.text.clone())?;
                let last = self.names.code.instructions.last_mut().map(|last| &mut last.op);
                if let (Some(used), Some(Op::Load(load))) = (self.used.take(), last) {
                    load.used = used;
                }
            }
        }
        Ok(())
    }

    fn instruction(&mut self, text: &str, span: Range<usize>) -> Result<(), Fault> {
        let bad = || Fault::bad_module(text);
        let (guard, rest) = match text.strip_prefix('@') {
            Some(rest) => {
                let (guard, rest) = rest.trim_start().split_once(char::is_whitespace).ok_or_else(bad)?;
                (Some(self.names.pred(guard).ok_or_else(bad)?), rest.trim_start())
            }
            None => (None, text),
        };
        let (name, rest) = rest
            .split_once(|c: char| c.is_whitespace() || c == '{')
            .map_or((rest, ""), |(name, _)| (name, &rest[name.len()..]));
        let operands = split_operands(rest);
        let opcode = Opcode::parse(name);
        let op = match (opcode.base, operands.as_slice()) {
            ("bra", [label]) => {
                self.wanted.push((self.names.code.instructions.len(), (*label).to_owned()));
                Op::Branch { target: 0 }
            }
            ("ret", []) => Op::Exit,
            _ => operation(&mut self.names, &opcode, &operands).unwrap_or(Op::Unsupported),
        };
        self.push(guard, op, latency::of(&opcode), span);
        Ok(())
    }

    fn link(&mut self) -> Result<(), Fault> {
        for (at, name) in std::mem::take(&mut self.wanted) {
            let missing = || Fault::bad_module(format!("no label {name}"));
            let target = self.labels.get(&name).copied().ok_or_else(missing)?;
            self.names.code.instructions[at].op = Op::Branch { target };
        }
        Ok(())
    }
}

fn split_operands(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut operands = Vec::new();
    let mut begin = 0;
    for (at, c) in text.bytes().enumerate() {
        match c {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                operands.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    operands.push(text[begin..].trim());
    operands.retain(|operand| !operand.is_empty());
    operands
}
