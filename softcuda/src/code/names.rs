//! What names and literals stand for: registers, special registers, constants and variables, as
//! rows and addresses.
use std::collections::HashMap;

use super::operation::{Address, Code, DYNAMIC_SHARED, Pred, Space, TRUE};
use super::special;
use crate::fault::Fault;
use crate::ptx::{Module, Ty, Variable};

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
    /// Where a caller puts an argument.
    Argument,
}

/// Names declared between a pair of braces. A family is known by its prefix.
#[derive(Default)]
struct Scope {
    names: HashMap<String, Symbol>,
    families: HashMap<String, Symbol>,
}

/// The names of a kernel, and the rows that they take.
pub(super) struct Names<'m> {
    module: &'m Module,
    globals: &'m HashMap<String, u64>,
    /// Its instructions are others' business.
    pub(super) code: Code,
    scopes: Vec<Scope>,
    constants: HashMap<u64, u32>,
    specials: HashMap<String, u32>,
    /// Shared variables that have an address.
    shared: HashMap<String, u64>,
    shared_packed: u32,
}

/// Between shared variables: a multiple of the banks' 128 bytes, so that bank conflicts stay what
/// they are.
const SHARED_GAP: u32 = 256;

/// Of a kernel; each takes a row in every warp.
const MOST_REGISTERS: usize = 1 << 16;

impl<'m> Names<'m> {
    /// `globals` are the addresses of the module's variables, `params` names and offsets of the
    /// kernel's parameters.
    pub(super) fn new<'p>(
        module: &'m Module,
        globals: &'m HashMap<String, u64>,
        params: impl Iterator<Item = (&'p str, usize)>,
    ) -> Self {
        let names = params.map(|(name, at)| (name.to_owned(), Symbol::Address(at as u64))).collect();
        Self {
            module,
            globals,
            // Predicate 0 always holds, row 0 takes what is assigned to `_`.
            code: Code { preds: 1, rows: 1, ..Code::default() },
            scopes: vec![Scope { names, ..Scope::default() }],
            constants: HashMap::new(),
            specials: HashMap::new(),
            shared: HashMap::new(),
            shared_packed: 0,
        }
    }

    /// What is declared from now on is known up to the closing brace.
    pub(super) fn open(&mut self) {
        self.scopes.push(Scope::default());
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    /// A declaration of registers, of a shared variable or of an argument of a call.
    pub(super) fn declare(&mut self, text: &str) -> Result<(), Fault> {
        if let Some(rest) = text.strip_prefix(".reg") {
            return self.declare_registers(rest).ok_or_else(|| Fault::bad_module(text));
        }
        let known = text.starts_with(".shared") || text.starts_with(".param");
        let variable = Variable::parse(text).filter(|_| known).ok_or_else(|| Fault::bad_module(text))?;
        if text.starts_with(".param") {
            if let Some(scope) = self.scopes.last_mut() {
                scope.names.insert(variable.name, Symbol::Argument);
            }
            return Ok(());
        }
        let at = self.place_shared(&variable).ok_or_else(|| Fault::bad_module(text))?;
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(variable.name, Symbol::Address(at));
        }
        Ok(())
    }

    fn declare_registers(&mut self, rest: &str) -> Option<()> {
        let (ty, names) = rest.trim_start().split_once(char::is_whitespace)?;
        let ty = Ty::parse(ty.trim_start_matches('.'))?;
        for name in names.split(',').map(str::trim) {
            let (name, count) = match name.split_once('<') {
                Some((name, count)) => (name, Some(count.trim_end_matches('>').parse().ok()?)),
                None => (name, None),
            };
            let total = count.unwrap_or(1);
            if self.code.preds + self.code.rows + total as usize > MOST_REGISTERS {
                return None;
            }
            let first = if ty == Ty::Pred { self.code.preds as u32 } else { self.code.rows as u32 };
            if ty == Ty::Pred {
                self.code.preds += total as usize;
            } else {
                self.code.rows += total as usize;
                self.code.names.push((name.to_owned(), first, total));
            }
            let scope = self.scopes.last_mut()?;
            let table = if count.is_some() { &mut scope.families } else { &mut scope.names };
            table.insert(name.to_owned(), Symbol::Register { first, count: total, ty });
        }
        Some(())
    }

    /// The address of a shared variable, if it lies before those of dynamic shared memory.
    fn place_shared(&mut self, variable: &Variable) -> Option<u64> {
        if variable.external {
            return Some(DYNAMIC_SHARED);
        }
        if let Some(&at) = self.shared.get(&variable.name) {
            return Some(at);
        }
        let size = u32::try_from(variable.size).ok().filter(|&size| u64::from(size) <= DYNAMIC_SHARED)?;
        let packed = self.shared_packed.next_multiple_of(variable.align as u32);
        let at = packed + self.code.shared.len() as u32 * SHARED_GAP;
        if u64::from(at) + u64::from(size) > DYNAMIC_SHARED {
            return None;
        }
        self.shared_packed = packed + size;
        self.code.shared.push((at, size));
        self.shared.insert(variable.name.clone(), at.into());
        Some(at.into())
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
        match module.shared(name) {
            Some(variable) => self.place_shared(variable),
            None => self.globals.get(name).copied(),
        }
    }

    /// The register of that name: its row or predicate, and its type.
    fn register(&self, name: &str) -> Option<(u32, Ty)> {
        match self.scoped(name)? {
            Symbol::Register { first, ty, .. } => Some((first, ty)),
            Symbol::Address(_) | Symbol::Argument => None,
        }
    }

    /// Whether an address operand is that of a call's argument.
    pub(super) fn is_argument(&self, text: &str) -> bool {
        let inner = text.trim_start_matches('[').trim_end_matches(']');
        let name = inner.split('+').next().unwrap_or_default().trim();
        matches!(self.scoped(name), Some(Symbol::Argument))
    }

    /// The row that an operand is written to, and its register's type.
    pub(super) fn destination(&self, name: &str) -> Option<(u32, Ty)> {
        if name == "_" { Some((0, Ty::B64)) } else { self.register(name).filter(|found| found.1 != Ty::Pred) }
    }

    /// The predicate that an operand is written to.
    pub(super) fn destination_pred(&self, name: &str) -> Option<u32> {
        self.register(name).filter(|found| found.1 == Ty::Pred).map(|found| found.0)
    }

    /// A source operand as a row: a register, a special register, a literal or an address.
    pub(super) fn source(&mut self, text: &str, ty: Ty) -> Option<u32> {
        if let Some(bits) = ty.literal(text) {
            return Some(self.constant(bits & ty.mask()));
        }
        if let Some((row, ty)) = self.register(text) {
            return Some(row).filter(|_| ty != Ty::Pred);
        }
        let Some(special) = special::lookup(text) else {
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

    /// A predicate that is read.
    pub(super) fn pred(&mut self, text: &str) -> Option<Pred> {
        let (negate, name) = text.strip_prefix('!').map_or((false, text), |name| (true, name.trim_start()));
        if let Some(value) = Ty::Pred.literal(name) {
            return Some(Pred { index: TRUE, negate: negate ^ (value == 0) });
        }
        self.destination_pred(name).map(|index| Pred { index, negate })
    }

    /// An address operand, `[base+offset]`.
    pub(super) fn address(&mut self, text: &str, space: Space) -> Option<Address> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?.trim();
        let (base, offset) = match inner.split_once('+') {
            Some((base, offset)) => (base.trim(), Ty::S64.literal(offset.trim())? as i64),
            None => (inner, 0),
        };
        Some(Address { space, base: self.source(base, Ty::B64)?, offset })
    }
}
