//! A kernel's text to [`Code`]. Calls are inlined, so that a warp's lanes need one instruction number each and no stack.
use std::collections::HashMap;
use std::ops::Range;

use super::opcode::{Opcode, Ty};
use super::semantics::{fence, semantics};
use super::{Kind, Module, Variable, bad, order, split_statements};
use crate::exec::arith;
use crate::exec::code::*;
use crate::exec::float::Conversion;
use crate::fault::Fault;

/// What a name stands for.
#[derive(Clone, Debug)]
enum Symbol {
    /// A family `%r<n>` or a single register.
    Register {
        first: u32,
        count: u32,
        ty: Ty,
    },
    Address(u64),
}

/// Names declared between a pair of braces. A family is known by its prefix.
#[derive(Default)]
struct Names {
    names: HashMap<String, Symbol>,
    families: HashMap<String, Symbol>,
}

/// The labels of one body, or of one inlined copy of it.
#[derive(Default)]
struct Labels {
    places: HashMap<String, u32>,
    tables: HashMap<String, Vec<String>>,
    /// Instructions whose targets are filled in at the end, and the label or table each one names.
    wanted: Vec<(usize, String)>,
    returns: Vec<usize>,
}

struct Decoder<'m> {
    module: &'m Module,
    globals: &'m HashMap<String, u64>,
    code: Code,
    scopes: Vec<Names>,
    constants: HashMap<u64, u32>,
    specials: HashMap<String, u32>,
    /// Shared variables that have an address: one each, however often a function that declares it is inlined.
    shared: HashMap<String, u64>,
    shared_packed: u32,
    depth: u32,
}

/// Between shared variables: a multiple of the banks' 128 bytes, so that bank conflicts stay what they are.
const SHARED_GAP: u32 = 256;

/// Decodes the kernel of that index, `globals` being the addresses of the module's variables.
pub(crate) fn decode(module: &Module, kernel: usize, globals: &HashMap<String, u64>) -> Result<Code, Fault> {
    let kernel = &module.kernels[kernel];
    let mut decoder = Decoder {
        module,
        globals,
        // Predicate 0 always holds, row 0 takes what is assigned to `_`.
        code: Code { preds: 1, rows: 1, ..Code::default() },
        scopes: vec![Names::default()],
        constants: HashMap::new(),
        specials: HashMap::new(),
        shared: HashMap::new(),
        shared_packed: 0,
        depth: 0,
    };
    let params = &module.functions[kernel.function].params;
    let bindings = params.iter().zip(&kernel.params);
    let bindings = bindings.map(|(name, place)| (name.name.clone(), PARAM_WINDOW + place.offset as u64));
    decoder.body(kernel.function, bindings.collect())?;
    let end = module.functions[kernel.function].body.clone().unwrap_or_default().end;
    decoder.push(None, Op::Exit, end..end);
    let mut code = decoder.code;
    code.rank = rank(&code.instructions);
    Ok(code)
}

impl Decoder<'_> {
    fn push(&mut self, guard: Option<Pred>, op: Op, text: Range<usize>) {
        self.code.instructions.push(Instruction { guard, op, text });
    }

    fn body(&mut self, function: usize, bindings: Vec<(String, u64)>) -> Result<(), Fault> {
        let module = self.module;
        let Some(span) = module.functions[function].body.clone() else {
            return Err(bad(format!("{} has no body", module.functions[function].name)));
        };
        let outer = std::mem::replace(&mut self.scopes, vec![Names::default()]);
        self.scopes[0].names.extend(bindings.into_iter().map(|(name, at)| (name, Symbol::Address(at))));
        let mut labels = Labels::default();
        let mut used = None;
        let mut label = "";
        for statement in split_statements(&module.source, span) {
            let text = &module.source[statement.text.clone()];
            match statement.kind {
                Kind::Open => self.scopes.push(Names::default()),
                Kind::Close => drop(self.scopes.pop()),
                Kind::Label => {
                    label = text;
                    if labels.places.insert(text.to_owned(), self.code.instructions.len() as u32).is_some() {
                        return Err(bad(format!("label {text} is defined twice")));
                    }
                }
                Kind::Directive => {
                    if let Some(targets) = text.strip_prefix(".branchtargets") {
                        let targets = targets.split(',').map(|target| target.trim().to_owned()).collect();
                        labels.tables.insert(label.to_owned(), targets);
                    } else if text.starts_with(".pragma") {
                        used = text
                            .split_once("used_bytes_mask")
                            .map(|(_, mask)| mask.trim().trim_matches('"').to_owned());
                    } else {
                        self.declare(text)?;
                    }
                }
                Kind::Instruction => {
                    self.instruction(text, statement.text.clone(), &mut labels)?;
                    let mask = used.take().and_then(|mask| Ty::B64.literal(mask.trim()));
                    if let (Some(mask), Some(Op::Load(load))) =
                        (mask, self.code.instructions.last_mut().map(|last| &mut last.op))
                    {
                        load.used = mask;
                    }
                }
            }
        }
        self.link(labels)?;
        self.scopes = outer;
        Ok(())
    }

    fn link(&mut self, labels: Labels) -> Result<(), Fault> {
        let end = self.code.instructions.len() as u32;
        let place = |name: &String| labels.places.get(name).copied().ok_or_else(|| bad(format!("no label {name}")));
        for (at, name) in &labels.wanted {
            match &mut self.code.instructions[*at].op {
                Op::Branch { target } => *target = place(name)?,
                Op::Table { targets, .. } => {
                    let names = labels.tables.get(name).ok_or_else(|| bad(format!("no table {name}")))?;
                    *targets = names.iter().map(place).collect::<Result<_, _>>()?;
                }
                _ => {}
            }
        }
        for at in labels.returns {
            self.code.instructions[at].op = Op::Branch { target: end };
        }
        Ok(())
    }

    fn declare(&mut self, text: &str) -> Result<(), Fault> {
        if let Some(rest) = text.strip_prefix(".reg") {
            let (ty, names) = rest.trim_start().split_once(char::is_whitespace).ok_or_else(|| bad(text))?;
            let ty = Ty::parse(ty.trim_start_matches('.')).ok_or_else(|| bad(text))?;
            for name in names.split(',').map(str::trim) {
                let (name, count) = match name.split_once('<') {
                    Some((name, count)) => (name, Some(count.trim_end_matches('>').parse().map_err(|_| bad(text))?)),
                    None => (name, None),
                };
                let total = count.unwrap_or(1);
                let first = if ty == Ty::Pred { self.code.preds as u32 } else { self.code.rows as u32 };
                if ty == Ty::Pred {
                    self.code.preds += total as usize;
                } else {
                    self.code.rows += total as usize;
                    self.code.names.push((name.to_owned(), first, total));
                }
                let scope = self.scopes.last_mut().ok_or_else(|| bad(text))?;
                let table = if count.is_some() { &mut scope.families } else { &mut scope.names };
                table.insert(name.to_owned(), Symbol::Register { first, count: total, ty });
            }
            return Ok(());
        }
        let variable = Variable::parse(text).ok_or_else(|| bad(text))?;
        if text.starts_with(".shared") {
            let at = self.place_shared(&variable);
            self.name(&variable.name, at);
        } else if text.starts_with(".local") || text.starts_with(".param") {
            let at = self.code.local.next_multiple_of(variable.align.max(8) as u32);
            self.code.local = at + variable.size as u32;
            self.name(&variable.name, LOCAL_WINDOW + u64::from(at));
        } else {
            return Err(bad(text));
        }
        Ok(())
    }

    fn place_shared(&mut self, variable: &Variable) -> u64 {
        if variable.external {
            return DYNAMIC_SHARED;
        }
        if let Some(&at) = self.shared.get(&variable.name) {
            return at;
        }
        let packed = self.shared_packed.next_multiple_of(variable.align as u32);
        let at = packed + self.code.shared.len() as u32 * SHARED_GAP;
        self.shared_packed = packed + variable.size as u32;
        self.code.shared.push((at, variable.size as u32));
        self.shared.insert(variable.name.clone(), at.into());
        at.into()
    }

    fn name(&mut self, name: &str, address: u64) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name.to_owned(), Symbol::Address(address));
        }
    }

    fn instruction(&mut self, text: &str, span: Range<usize>, labels: &mut Labels) -> Result<(), Fault> {
        let (guard, rest) = match text.strip_prefix('@') {
            Some(rest) => {
                let (guard, rest) = rest.trim_start().split_once(char::is_whitespace).ok_or_else(|| bad(text))?;
                (Some(self.pred(guard).ok_or_else(|| bad(text))?), rest.trim_start())
            }
            None => (None, text),
        };
        let (name, rest) = rest
            .split_once(|c: char| c.is_whitespace() || c == '{')
            .map_or((rest, ""), |(name, _)| (name, &rest[name.len()..]));
        let operands = split_operands(rest);
        let opcode = Opcode::parse(name);
        let at = self.code.instructions.len();
        match opcode.base {
            "bra" if operands.len() == 1 => {
                labels.wanted.push((at, operands[0].to_owned()));
                self.push(guard, Op::Branch { target: 0 }, span);
            }
            "brx" if operands.len() == 2 => {
                labels.wanted.push((at, operands[1].to_owned()));
                let index = self.source(operands[0], Ty::U32).ok_or_else(|| bad(text))?;
                self.push(guard, Op::Table { targets: Box::default(), index }, span);
            }
            "ret" if self.depth > 0 => {
                labels.returns.push(at);
                self.push(guard, Op::Nothing, span);
            }
            "ret" | "exit" => self.push(guard, Op::Exit, span),
            "call" => self.call(&operands, guard, span)?,
            _ => {
                let op = self.operation(&opcode, &operands).unwrap_or(Op::Unsupported);
                self.push(guard, op, span);
            }
        }
        Ok(())
    }

    /// Inlines a call: the callee's parameters are names for the caller's variables.
    fn call(&mut self, operands: &[&str], guard: Option<Pred>, span: Range<usize>) -> Result<(), Fault> {
        const DEEPEST: u32 = 32;
        let list = |text: &str| -> Vec<String> {
            let items = text.trim_matches(['(', ')']).split(',').map(|item| item.trim().to_owned());
            items.filter(|item| !item.is_empty()).collect()
        };
        let at = operands.iter().position(|operand| !operand.starts_with('('));
        // A definition comes after its prototype.
        let callee = at.and_then(|at| self.module.functions.iter().rposition(|f| f.name == operands[at]));
        let (Some(at), Some(callee)) = (at, callee) else {
            self.push(guard, Op::Unsupported, span);
            return Ok(());
        };
        let function = &self.module.functions[callee];
        if function.body.is_none() || guard.is_some() || self.depth == DEEPEST {
            let op = if function.name == "__assertfail" { Op::Trap } else { Op::Unsupported };
            self.push(guard, op, span);
            return Ok(());
        }
        let given = operands[..at].iter().chain(operands.get(at + 1)).flat_map(|text| list(text));
        let formal = function.returns.iter().chain(&function.params);
        let bindings = formal.zip(given).map(|(formal, actual)| match self.variable(&actual) {
            Some(address) => Ok((formal.name.clone(), address)),
            None => Err(bad(format!("argument {actual} of {}", function.name))),
        });
        let bindings = bindings.collect::<Result<_, _>>()?;
        self.depth += 1;
        self.body(callee, bindings)?;
        self.depth -= 1;
        Ok(())
    }

    fn scoped(&self, name: &str) -> Option<Symbol> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[prefix.len()..].parse::<u32>().ok();
        for scope in self.scopes.iter().rev() {
            if let Some(symbol) = scope.names.get(name) {
                return Some(symbol.clone());
            }
            let Some(&Symbol::Register { first, count, ty }) = scope.families.get(prefix) else { continue };
            if let Some(number) = number.filter(|&number| number < count) {
                return Some(Symbol::Register { first: first + number, count: 1, ty });
            }
        }
        None
    }

    /// The address of a variable of any space.
    fn variable(&mut self, name: &str) -> Option<u64> {
        if let Some(symbol) = self.scoped(name) {
            return if let Symbol::Address(address) = symbol { Some(address) } else { None };
        }
        let module = self.module;
        match module.shared.iter().find(|variable| variable.name == name) {
            Some(variable) => Some(self.place_shared(variable)),
            None => self.globals.get(name).copied(),
        }
    }

    /// The register of that name: its row or predicate, and its type.
    fn register(&self, name: &str) -> Option<(u32, Ty)> {
        match self.scoped(name)? {
            Symbol::Register { first, ty, .. } => Some((first, ty)),
            Symbol::Address(_) => None,
        }
    }

    fn destination(&self, name: &str) -> Option<(u32, Ty)> {
        if name == "_" { Some((0, Ty::B64)) } else { self.register(name).filter(|found| found.1 != Ty::Pred) }
    }

    fn destination_pred(&self, name: &str) -> Option<u32> {
        self.register(name).filter(|found| found.1 == Ty::Pred).map(|found| found.0)
    }

    /// A source operand as a row: a register, a special register, a literal or an address.
    fn source(&mut self, text: &str, ty: Ty) -> Option<u32> {
        if let Some(bits) = ty.literal(text) {
            return Some(self.constant(bits & ty.mask()));
        }
        if let Some((row, ty)) = self.register(text) {
            return Some(row).filter(|_| ty != Ty::Pred);
        }
        let Some(special) = special(text) else {
            let address = self.variable(text)?;
            return Some(self.constant(address));
        };
        if let Some(&row) = self.specials.get(text) {
            return Some(row);
        }
        let row = self.new_row();
        self.specials.insert(text.to_owned(), row);
        self.code.specials.push((row, special));
        Some(row)
    }

    fn constant(&mut self, bits: u64) -> u32 {
        if let Some(&row) = self.constants.get(&bits) {
            return row;
        }
        let row = self.new_row();
        self.constants.insert(bits, row);
        self.code.constants.push((row, bits));
        row
    }

    fn new_row(&mut self) -> u32 {
        self.code.rows += 1;
        self.code.rows as u32 - 1
    }

    fn pred(&mut self, text: &str) -> Option<Pred> {
        let (negate, name) = text.strip_prefix('!').map_or((false, text), |name| (true, name.trim_start()));
        if let Some(value) = Ty::Pred.literal(name) {
            return Some(Pred { index: TRUE, negate: negate ^ (value == 0) });
        }
        self.destination_pred(name).map(|index| Pred { index, negate })
    }

    fn address(&mut self, text: &str, space: Space) -> Option<Address> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
        let (base, offset) = match inner.split_once('+') {
            Some((base, offset)) => (base.trim(), Ty::S64.literal(offset.trim())? as i64),
            None => (inner, 0),
        };
        Some(Address { space, base: self.source(base, Ty::B64)?, offset })
    }

    fn operation(&mut self, op: &Opcode, operands: &[&str]) -> Option<Op> {
        match (op.base, operands) {
            ("ld" | "ldu", [d, a]) => self.transfer(op, d, a).map(|transfer| Op::Load(Box::new(transfer))),
            ("st", [a, s]) => self.transfer(op, s, a).map(|transfer| Op::Store(Box::new(transfer))),
            ("atom" | "red", _) => self.atomic(op, operands),
            ("cp", _) => self.copy_async(op, operands),
            ("prefetch" | "prefetchu", [a]) => Some(Op::Prefetch(self.address(a, space(op)?)?)),
            ("mov", [d, s]) => self.mov(op, d, s),
            ("and" | "or" | "xor" | "not", _) if op.ty() == Some(Ty::Pred) => {
                let dst = self.destination_pred(operands.first()?)?;
                let mut a = self.pred(operands.get(1)?)?;
                a.negate ^= op.base == "not";
                let b = if op.base == "not" { a } else { self.pred(operands.get(2)?)? };
                Some(Op::Combine { logic: logic(op.base).unwrap_or(Logic::And), dst, a, b })
            }
            ("selp", [d, a, b, p]) => {
                let ty = op.ty()?;
                let dst = self.destination(d)?.0;
                Some(Op::Select { dst, a: self.source(a, ty)?, b: self.source(b, ty)?, pred: self.pred(p)? })
            }
            ("setp", [d, a, b, rest @ ..]) => {
                let (d, complement) = d.split_once('|').map_or((*d, "_"), |(p, q)| (p.trim(), q.trim()));
                let target = |name: &str| if name == "_" { Some(None) } else { self.destination_pred(name).map(Some) };
                let (dst, complement) = (target(d)?, target(complement)?);
                let compare = self.compare(op, op.ty()?, [a, b], rest.first().copied())?;
                Some(Op::Compare(Box::new(Compare { dst, complement, ..compare })))
            }
            ("set", [d, a, b, rest @ ..]) if op.types.len() == 2 => {
                let held = match op.types[0] {
                    Ty::F16 => 0x3c00,
                    Ty::Bf16 => 0x3f80,
                    Ty::F32 => 0x3f80_0000,
                    Ty::U32 | Ty::S32 => 0xffff_ffff,
                    _ => return None,
                };
                let set = Some((self.destination(d)?.0, held));
                let compare = self.compare(op, op.types[1], [a, b], rest.first().copied())?;
                Some(Op::Compare(Box::new(Compare { set, ..compare })))
            }
            ("testp" | "isspacep", [d, a]) => {
                let test = test(op)?;
                Some(Op::Test {
                    test,
                    dst: self.destination_pred(d)?,
                    src: self.source(a, op.ty().unwrap_or(Ty::U64))?,
                })
            }
            ("cvt", _) => self.convert(op, operands),
            ("cvta", [d, a]) => {
                let window = self.constant(if op.has("shared") { SHARED_WINDOW } else { 0 });
                let move_by = Opcode::parse(if op.has("to") { "sub.u64" } else { "add.u64" });
                let (run, _) = arith::lookup(&move_by)?;
                let src = [self.source(a, Ty::U64)?, window, 0, 0];
                Some(Op::Lanes { run, dst: self.destination(d)?.0, src, arity: 2 })
            }
            ("membar" | "fence", _) => fence(op),
            ("griddepcontrol", _) => Some(Op::Nothing),
            ("nanosleep", _) => Some(Op::Yield),
            ("trap" | "brkpt", _) => Some(Op::Trap),
            ("shfl", [d, a, b, c, members]) if op.has("sync") => {
                let mode = match op.flags.as_slice() {
                    ["sync", "up"] => ShuffleMode::Up,
                    ["sync", "down"] => ShuffleMode::Down,
                    ["sync", "bfly"] => ShuffleMode::Butterfly,
                    ["sync", "idx"] => ShuffleMode::Index,
                    _ => return None,
                };
                let (d, in_range) = d.split_once('|').map_or((*d, None), |(d, p)| (d, Some(p)));
                Some(Op::Shuffle(Box::new(Shuffle {
                    mode,
                    dst: self.destination(d.trim())?.0,
                    in_range: in_range.map(str::trim).filter(|&p| p != "_").and_then(|p| self.destination_pred(p)),
                    value: self.source(a, Ty::B32)?,
                    lane: self.source(b, Ty::B32)?,
                    clamp: self.source(c, Ty::B32)?,
                    members: self.source(members, Ty::B32)?,
                })))
            }
            ("vote", [d, p, members]) if op.flags.len() == 2 && op.has("sync") => {
                let reduction = if op.has("ballot") { None } else { Some(reduction(op)?) };
                let outcome = match reduction {
                    None => Outcome::Row(self.destination(d)?.0),
                    Some(_) => Outcome::Pred(self.destination_pred(d)?),
                };
                Some(Op::Vote { reduction, pred: self.pred(p)?, outcome, members: self.source(members, Ty::B32)? })
            }
            ("redux", [d, a, members]) if op.flags.len() == 2 && op.has("sync") => {
                let update = arith::atomic(op.flags[1], op.ty()?)?;
                let (src, members) = (self.source(a, op.ty()?)?, self.source(members, Ty::B32)?);
                Some(Op::Reduce { update, dst: self.destination(d)?.0, src, members })
            }
            ("activemask", [d]) => Some(Op::ActiveMask { dst: self.destination(d)?.0 }),
            ("bar" | "barrier", _) => self.barrier(op, operands),
            _ => self.arithmetic(op, operands),
        }
    }

    fn arithmetic(&mut self, op: &Opcode, operands: &[&str]) -> Option<Op> {
        let ty = op.ty()?;
        let (run, arity) = arith::lookup(op)?;
        let [d, sources @ ..] = operands else { return None };
        if sources.len() != arity {
            return None;
        }
        let mut src = [0; 4];
        for (at, operand) in sources.iter().enumerate() {
            // What follows the first operands of these is a count or a wider addend.
            let ty = match (op.base, at) {
                ("shl" | "shr", 1) | ("bfe", 1..) | ("bfi", 2..) => Ty::U32,
                ("slct", 2) => *op.types.get(1)?,
                ("mad", 2) if op.has("wide") => Ty::B64,
                _ => ty,
            };
            src[at] = self.source(operand, ty)?;
        }
        Some(Op::Lanes { run, dst: self.destination(d)?.0, src, arity: arity as u8 })
    }

    fn mov(&mut self, op: &Opcode, d: &str, s: &str) -> Option<Op> {
        let ty = op.ty()?;
        if ty == Ty::Pred {
            let a = self.pred(s)?;
            return Some(Op::Combine { logic: Logic::And, dst: self.destination_pred(d)?, a, b: a });
        }
        let bits = |parts: usize| (8 * ty.bytes() / parts) as u32;
        if let Some(parts) = vector(s) {
            let part = [Ty::B64, Ty::B32, Ty::B16, Ty::B8]
                .into_iter()
                .find(|part| part.bytes() * parts.len() == ty.bytes())?;
            let rows = parts.iter().map(|name| self.source(name, part)).collect::<Option<_>>()?;
            return Some(Op::Pack { dst: self.destination(d)?.0, parts: rows, bits: bits(parts.len()) });
        }
        if let Some(parts) = vector(d) {
            let rows = parts.iter().map(|name| match *name {
                "_" => Some(None),
                name => self.destination(name).map(|found| Some(found.0)),
            });
            let rows = rows.collect::<Option<_>>()?;
            return Some(Op::Unpack { parts: rows, src: self.source(s, ty)?, bits: bits(parts.len()) });
        }
        Some(Op::Move { dst: self.destination(d)?.0, src: self.source(s, ty)?, mask: ty.mask() })
    }

    fn transfer(&mut self, op: &Opcode, data: &str, at: &str) -> Option<Transfer> {
        // Cache and eviction hints change nothing here; a cache policy would be one operand more.
        const KNOWN: &str = "global shared shared::cta local param param::func param::entry const volatile relaxed acquire \
            release weak cta gpu sys nc ca cg cs cv lu wb wt v2 v4 v8";
        let known = |flag: &&str| {
            KNOWN.split(' ').any(|known| known == *flag)
                || ["L1::evict", "L1::no_alloc", "L2::evict"].iter().any(|hint| flag.starts_with(hint))
                || flag.starts_with("L2::") && flag.ends_with('B')
        };
        let ty = op.ty().filter(|_| op.types.len() == 1 && op.flags.iter().all(known))?;
        let names = vector(data).unwrap_or_else(|| vec![data]);
        let count = ["v2", "v4", "v8"].iter().zip([2, 4, 8]).find(|(flag, _)| op.has(flag)).map_or(1, |(_, n)| n);
        if names.len() != count || ty.bytes() * count > 32 {
            return None;
        }
        let (rows, mask) = if op.base == "st" {
            (names.iter().map(|name| self.source(name, ty)).collect::<Option<_>>()?, ty.mask())
        } else {
            let found = names.iter().map(|name| self.destination(name)).collect::<Option<Vec<_>>>()?;
            // The register of `_` is wider than any.
            let width = found.iter().map(|found| found.1.mask()).min()?;
            (found.iter().map(|found| found.0).collect(), width)
        };
        let at = self.address(at, space(op)?)?;
        let used = u64::MAX >> (64 - ty.bytes() * count);
        Some(Transfer { at, ty, rows, mask, used, semantics: semantics(op) })
    }

    fn atomic(&mut self, op: &Opcode, operands: &[&str]) -> Option<Op> {
        const ORDER: &str = "global shared shared::cta relaxed acquire release acq_rel cta gpu sys noftz";
        let ty = op.ty()?;
        let mut names = op.flags.iter().filter(|flag| !ORDER.split(' ').any(|known| known == **flag));
        let update = arith::atomic(names.next()?, ty)?;
        let (old, rest) = match (op.base, operands) {
            ("atom", [d, rest @ ..]) => (Some(self.destination(d)?.0), rest),
            (_, rest) => (None, rest),
        };
        let [at, b, c @ ..] = rest else { return None };
        let b = self.source(b, ty)?;
        let c = if let [c] = c { self.source(c, ty)? } else { b };
        let at = self.address(at, space(op)?)?;
        if names.next().is_some() {
            return None;
        }
        let semantics = semantics(op);
        Some(Op::Atomic(Box::new(Atomic { at, update, ty, old, operands: [b, c], semantics })))
    }

    fn copy_async(&mut self, op: &Opcode, operands: &[&str]) -> Option<Op> {
        match (op.flags.as_slice(), operands) {
            (["async", "commit_group"], _) => Some(Op::CommitCopies),
            (["async", "wait_group"], [count]) => Some(Op::WaitCopies(Some(Ty::U32.literal(count)? as u32))),
            (["async", "wait_all"], _) => Some(Op::WaitCopies(None)),
            (["async", "ca" | "cg", "shared" | "shared::cta", "global", ..], [to, from, bytes, rest @ ..]) => {
                let taken = match rest {
                    [] => None,
                    [count] if self.destination_pred(count).is_none() => Some(self.source(count, Ty::U32)?),
                    _ => return None,
                };
                let (to, from) = (self.address(to, Space::Shared)?, self.address(from, Space::Global)?);
                Some(Op::CopyAsync { to, from, bytes: Ty::U32.literal(bytes)? as u32, taken })
            }
            _ => None,
        }
    }

    /// A comparison whose outcome goes nowhere yet.
    fn compare(&mut self, op: &Opcode, ty: Ty, [a, b]: [&str; 2], c: Option<&str>) -> Option<Compare> {
        let accept = match *op.flags.first()? {
            "eq" => 2,
            "ne" => 5,
            "lt" | "lo" => 1,
            "le" | "ls" => 3,
            "gt" | "hi" => 4,
            "ge" | "hs" => 6,
            "equ" => 10,
            "neu" => 13,
            "ltu" => 9,
            "leu" => 11,
            "gtu" => 12,
            "geu" => 14,
            "num" => 7,
            "nan" => 8,
            _ => return None,
        };
        let combine = match c {
            Some(c) => Some((logic(op.flags.get(1)?)?, self.pred(c)?)),
            None => None,
        };
        if !op.flags[1..].iter().all(|flag| *flag == "ftz" || combine.is_some() && logic(flag).is_some()) {
            return None;
        }
        let run = arith::compare(ty, op.has("ftz"))?;
        let (a, b) = (self.source(a, ty)?, self.source(b, ty)?);
        Some(Compare { run, a, b, accept, combine, dst: None, complement: None, set: None })
    }

    fn convert(&mut self, op: &Opcode, operands: &[&str]) -> Option<Op> {
        if let ([d, a, b], Some(run)) = (operands, arith::packed_conversion(op)) {
            let src = [self.source(a, Ty::F32)?, self.source(b, Ty::F32)?, 0, 0];
            return Some(Op::Lanes { run, dst: self.destination(d)?.0, src, arity: 2 });
        }
        let ([d, a], &[to, from]) = (operands, op.types.as_slice()) else { return None };
        let packed = |ty: Ty| matches!(ty, Ty::F16x2 | Ty::Bf16x2 | Ty::Pred);
        let mode = op.rounding();
        let inexact_double = to == Ty::F64 && !from.float() && mode != super::opcode::Rounding::Nearest;
        if packed(to) || packed(from) || inexact_double || !op.only("rn rz rm rp rni rzi rmi rpi ftz sat") {
            return None;
        }
        let (dst, register) = self.destination(d)?;
        let conversion = Conversion {
            from,
            to,
            mode,
            integral: op.integral(),
            saturate: op.has("sat"),
            flush: op.has("ftz"),
            mask: register.mask(),
        };
        let src = self.source(a, from)?;
        match arith::common_conversion(&conversion).filter(|_| register.bytes() == to.bytes()) {
            Some(run) => Some(Op::Lanes { run, dst, src: [src, 0, 0, 0], arity: 1 }),
            None => Some(Op::Convert { conversion: Box::new(conversion), dst, src }),
        }
    }

    fn barrier(&mut self, op: &Opcode, operands: &[&str]) -> Option<Op> {
        let flags: Vec<&str> = op.flags.iter().copied().filter(|flag| !["cta", "aligned"].contains(flag)).collect();
        let mut barrier = Barrier { id: 0, threads: None, waits: true, vote: None };
        let operands = match (flags.as_slice(), operands) {
            (["warp", "sync"], [members]) => return Some(Op::WarpBarrier { members: self.source(members, Ty::B32)? }),
            (["sync"], operands) => operands,
            (["arrive"], operands) => {
                barrier.waits = false;
                operands
            }
            (["red", ..], [d, operands @ .., p]) => {
                let reduction = if op.has("popc") { Reduction::Count } else { reduction(op)? };
                let outcome = match reduction {
                    Reduction::Count => Outcome::Row(self.destination(d)?.0),
                    _ => Outcome::Pred(self.destination_pred(d)?),
                };
                barrier.vote = Some((reduction, self.pred(p)?, outcome));
                operands
            }
            _ => return None,
        };
        let [id, threads @ ..] = operands else { return None };
        barrier.id = self.source(id, Ty::U32)?;
        if let [threads] = threads {
            barrier.threads = Some(self.source(threads, Ty::U32)?);
        }
        Some(Op::Barrier(Box::new(barrier)))
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

/// The names in `{a, b}`.
fn vector(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    Some(inner.split(',').map(str::trim).collect())
}

fn space(op: &Opcode) -> Option<Space> {
    let named = op.flags.iter().find_map(|flag| match *flag {
        "global" | "const" => Some(Space::Global),
        "shared" | "shared::cta" => Some(Space::Shared),
        "local" => Some(Space::Local),
        "param" | "param::func" | "param::entry" => Some(Space::Param),
        "shared::cluster" => None,
        _ => None,
    });
    Some(named.unwrap_or(Space::Generic)).filter(|_| !op.has("shared::cluster"))
}

fn logic(name: &str) -> Option<Logic> {
    Some(match name {
        "and" => Logic::And,
        "or" => Logic::Or,
        "xor" => Logic::Xor,
        _ => return None,
    })
}

fn reduction(op: &Opcode) -> Option<Reduction> {
    match () {
        () if op.has("all") || op.has("and") => Some(Reduction::All),
        () if op.has("any") || op.has("or") => Some(Reduction::Any),
        () if op.has("uni") => Some(Reduction::Uniform),
        () => None,
    }
}

fn test(op: &Opcode) -> Option<fn(u64) -> bool> {
    Some(match (op.base, *op.flags.first()?) {
        ("isspacep", "shared" | "shared::cta") => |a| a / WINDOW == SHARED_WINDOW / WINDOW,
        ("isspacep", "local") => |a| a / WINDOW == LOCAL_WINDOW / WINDOW,
        ("isspacep", "param" | "param::entry") => |a| a / WINDOW == PARAM_WINDOW / WINDOW,
        ("isspacep", "global") => |a| a / WINDOW > PARAM_WINDOW / WINDOW,
        ("testp", name) if op.ty() == Some(Ty::F32) => match name {
            "finite" => |a| f32::from_bits(a as u32).is_finite(),
            "infinite" => |a| f32::from_bits(a as u32).is_infinite(),
            "number" => |a| !f32::from_bits(a as u32).is_nan(),
            "notanumber" => |a| f32::from_bits(a as u32).is_nan(),
            "normal" => |a| f32::from_bits(a as u32).is_normal(),
            "subnormal" => |a| f32::from_bits(a as u32).is_subnormal(),
            _ => return None,
        },
        _ => return None,
    })
}

fn special(name: &str) -> Option<Special> {
    Some(match name.strip_prefix('%')? {
        "tid.x" => |at, lane| at.tid(lane)[0],
        "tid.y" => |at, lane| at.tid(lane)[1],
        "tid.z" => |at, lane| at.tid(lane)[2],
        "ntid.x" => |at, _| at.block[0],
        "ntid.y" => |at, _| at.block[1],
        "ntid.z" => |at, _| at.block[2],
        "ctaid.x" => |at, _| at.ctaid[0],
        "ctaid.y" => |at, _| at.ctaid[1],
        "ctaid.z" => |at, _| at.ctaid[2],
        "nctaid.x" => |at, _| at.grid[0],
        "nctaid.y" => |at, _| at.grid[1],
        "nctaid.z" => |at, _| at.grid[2],
        "laneid" => |_, lane| lane,
        "warpid" => |at, _| at.warp,
        "nwarpid" => |at, _| at.block.iter().product::<u32>().div_ceil(32),
        "lanemask_eq" => |_, lane| 1 << lane,
        "lanemask_lt" => |_, lane| (1 << lane) - 1,
        "lanemask_le" => |_, lane| u32::MAX >> (31 - lane),
        "lanemask_gt" => |_, lane| !(u32::MAX >> (31 - lane)),
        "lanemask_ge" => |_, lane| u32::MAX << lane,
        "dynamic_smem_size" => |at, _| at.dynamic_shared,
        "total_smem_size" => |at, _| at.static_shared + at.dynamic_shared,
        // Time stands still, so that runs repeat.
        "smid" | "clock" | "clock_hi" | "clock64" | "globaltimer" | "gridid" => |_, _| 0,
        "nsmid" => |_, _| 1,
        _ => return None,
    })
}

/// The rank of each instruction in the order in which diverged lanes run.
fn rank(instructions: &[Instruction]) -> Vec<u32> {
    let count = instructions.len();
    let targets = |op: &Op| match op {
        Op::Branch { target } => vec![*target as usize],
        Op::Table { targets, .. } => targets.iter().map(|&target| target as usize).collect(),
        _ => Vec::new(),
    };
    let mut leads = vec![false; count + 1];
    leads[0] = true;
    for (at, instruction) in instructions.iter().enumerate() {
        let targets = targets(&instruction.op);
        leads[at + 1] |= !targets.is_empty() || matches!(instruction.op, Op::Exit | Op::Trap);
        targets.iter().for_each(|&target| leads[target] = true);
    }
    let starts: Vec<usize> = (0..count).filter(|&at| leads[at]).collect();
    let block_at = |at: usize| starts.partition_point(|&start| start <= at) - 1;
    let ends = starts[1..].iter().copied().chain([count]);
    let successors: Vec<Vec<usize>> = ends
        .clone()
        .map(|end| {
            let last = &instructions[end - 1];
            let mut next: Vec<usize> = targets(&last.op).into_iter().map(block_at).collect();
            let leaves = matches!(last.op, Op::Exit | Op::Trap | Op::Branch { .. } | Op::Table { .. });
            if end < count && (!leaves || last.guard.is_some()) {
                next.push(block_at(end));
            }
            next
        })
        .collect();
    let mut blocks: Vec<(u32, Range<usize>)> =
        order::ranks(&successors).into_iter().zip(starts.iter().zip(ends).map(|(&start, end)| start..end)).collect();
    blocks.sort_by_key(|(rank, _)| *rank);
    let mut ranks = vec![0; count];
    for (rank, at) in blocks.into_iter().flat_map(|(_, block)| block).enumerate() {
        ranks[at] = rank as u32;
    }
    ranks
}
