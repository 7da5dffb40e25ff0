//! PTX text as a module: its variables and functions. Bodies are decoded when a kernel is first launched.
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::fault::Fault;

pub(crate) mod decode;
pub(crate) mod opcode;
mod order;
mod semantics;
mod statement;

use opcode::Ty;
use statement::{Kind, split_statements, strip_comments};

/// A kernel parameter's place in the parameter buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Bytes from the start of the buffer.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
}

/// A `.entry` and what its launch needs.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The name it is looked up by.
    pub name: String,
    /// In order of declaration.
    pub params: Vec<Param>,
    /// Size of the parameter buffer.
    pub param_bytes: usize,
    /// Shared memory of the variables that the kernel and its callees name.
    pub static_shared_bytes: usize,
    /// Local memory a thread, before any register is spilled.
    pub local_bytes: usize,
    /// Threads of a block by `.maxntid` or `.reqntid`.
    pub max_threads: Option<u32>,
    function: usize,
}

/// A module-scope variable in global or constant memory.
#[derive(Clone, Debug)]
pub struct Global {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Contents; zero where nothing was given.
    pub init: Vec<u8>,
    /// Places in `init` that hold a variable's address: offset, variable, distance from its start.
    pub addresses: Vec<(usize, String, i64)>,
}

/// A declared variable of any space.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    ty: Ty,
    pub(crate) size: usize,
    pub(crate) align: usize,
    external: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Function {
    name: String,
    returns: Vec<Variable>,
    params: Vec<Variable>,
    /// The text between the braces; `None` for a prototype.
    body: Option<Range<usize>>,
}

/// A parsed module.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// The number of `.target sm_…`.
    pub target: u32,
    /// Variables in global and constant memory.
    pub globals: Vec<Global>,
    kernels: Vec<Kernel>,
    functions: Vec<Function>,
    shared: Vec<Variable>,
    source: String,
}

fn bad(text: impl Into<String>) -> Fault {
    Fault::BadModule { text: text.into() }
}

impl Module {
    /// Parses PTX text. Instructions are looked at only when a kernel that holds them is launched.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut module = Self { source: strip_comments(text), ..Self::default() };
        let source = module.source.clone();
        let mut at = 0;
        while let Some(skip) = source[at..].find(|c: char| !c.is_whitespace()) {
            at += skip;
            let rest = &source[at..];
            let line = rest.lines().next().unwrap_or_default();
            if let Some(target) = line.strip_prefix(".target") {
                let digits: String =
                    target.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
                module.target = digits.parse().map_err(|_| bad(line))?;
                at += line.len();
            } else if line.starts_with(".version") || line.starts_with(".address_size") {
                at += line.len();
            } else {
                at += module.item(&source, at)?;
            }
        }
        if module.target == 0 {
            return Err(bad("no .target"));
        }
        module.measure();
        Ok(module)
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// All kernels, in order of definition.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// One variable, function or section; gives its length.
    fn item(&mut self, source: &str, at: usize) -> Result<usize, Fault> {
        let rest = &source[at..];
        let end = rest.find([';', '{']).ok_or_else(|| bad(rest.lines().next().unwrap_or_default()))?;
        let head = &rest[..end];
        let opens = rest[end..].starts_with('{');
        if head.starts_with(".section") || !opens && head.starts_with(".pragma") {
            return Ok(if opens { closing_brace(rest, end)? + 1 } else { end + 1 });
        }
        if words(head).any(|word| word == ".entry" || word == ".func") {
            let close = if opens { closing_brace(rest, end)? } else { end };
            self.function(head, opens.then(|| at + end + 1..at + close))?;
            return Ok(close + 1);
        }
        let length = rest.find(';').ok_or_else(|| bad(head))?;
        let (declaration, init) = match rest[..length].split_once('=') {
            Some((declaration, init)) => (declaration, init.trim()),
            None => (&rest[..length], ""),
        };
        let variable = Variable::parse(declaration).ok_or_else(|| bad(declaration.trim()))?;
        if words(declaration).any(|word| word == ".shared") {
            self.shared.push(variable);
        } else if words(declaration).any(|word| word == ".global" || word == ".const") && !variable.external {
            self.globals.push(initialise(variable, init)?);
        } else {
            return Err(bad(declaration.trim()));
        }
        Ok(length + 1)
    }

    fn function(&mut self, head: &str, body: Option<Range<usize>>) -> Result<(), Fault> {
        let entry = words(head).any(|word| word == ".entry");
        let after = head.split_once(if entry { ".entry" } else { ".func" }).map_or("", |(_, after)| after);
        let (returns, after) = match after.trim_start().strip_prefix('(') {
            Some(after) => after.split_once(')').ok_or_else(|| bad(head))?,
            None => ("", after),
        };
        let (name, after) = after.split_once('(').unwrap_or((after, ")"));
        let (params, directives) = after.split_once(')').ok_or_else(|| bad(head))?;
        let name = words(name).next().ok_or_else(|| bad(head))?.to_owned();
        let list = |text: &str| -> Result<Vec<Variable>, Fault> {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(|item| Variable::parse(item).ok_or_else(|| bad(item))).collect()
        };
        let (returns, params) = (list(returns)?, list(params)?);
        if entry {
            let mut offset = 0;
            let layout = params.iter().map(|param| {
                let start = usize::next_multiple_of(offset, param.align);
                offset = start + param.size;
                Param { offset: start, size: param.size, align: param.align }
            });
            self.kernels.push(Kernel {
                name: name.clone(),
                params: layout.collect(),
                param_bytes: offset,
                static_shared_bytes: 0,
                local_bytes: 0,
                max_threads: thread_limit(directives),
                function: self.functions.len(),
            });
        }
        self.functions.push(Function { name, returns, params, body });
        Ok(())
    }

    /// Shared and local bytes of each kernel, those of its callees included.
    fn measure(&mut self) {
        enum Named<'a> {
            Function(usize),
            Shared(&'a Variable),
        }
        let functions = self.functions.iter().enumerate().map(|(at, f)| (f.name.as_str(), Named::Function(at)));
        let shared = self.shared.iter().map(|v| (v.name.as_str(), Named::Shared(v)));
        let names: HashMap<&str, Named> = functions.chain(shared).collect();
        let mut kernels = self.kernels.clone();
        for kernel in &mut kernels {
            let mut seen = HashSet::new();
            let mut stack = vec![kernel.function];
            let mut shared = Vec::new();
            while let Some(function) = stack.pop() {
                let body = self.body(function);
                for word in body.split(|c: char| !(c.is_ascii_alphanumeric() || "_$%".contains(c))) {
                    if word.len() < 2 || word.starts_with('%') || !seen.insert(word) {
                        continue;
                    }
                    match names.get(word) {
                        Some(&Named::Function(callee)) => stack.push(callee),
                        Some(&Named::Shared(variable)) => shared.push(variable.clone()),
                        None => {}
                    }
                }
                for variable in variables(body, ".local") {
                    kernel.local_bytes = kernel.local_bytes.next_multiple_of(variable.align) + variable.size;
                }
                shared.extend(variables(body, ".shared"));
            }
            kernel.static_shared_bytes = shared
                .iter()
                .filter(|variable| !variable.external)
                .fold(0, |end: usize, variable| end.next_multiple_of(variable.align) + variable.size);
        }
        self.kernels = kernels;
    }

    /// A piece of the text.
    pub(crate) fn text(&self, span: &Range<usize>) -> &str {
        &self.source[span.clone()]
    }

    /// The line of a position, from 1.
    pub(crate) fn line(&self, at: usize) -> u32 {
        1 + self.source[..at].bytes().filter(|&c| c == b'\n').count() as u32
    }

    /// The text of a function's body; empty for a prototype.
    fn body(&self, function: usize) -> &str {
        self.functions[function].body.clone().map_or("", |body| &self.source[body])
    }
}

impl Variable {
    /// `.visible .global .align 4 .b8 name[24]` and its kin.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (declaration, extents) = text.split_once('[').map_or((text, ""), |(left, right)| (left, right));
        let mut ty = None;
        let mut align = None;
        let mut name = None;
        let mut external = false;
        let mut before = "";
        for word in words(declaration) {
            match word.strip_prefix('.') {
                _ if before == ".align" => align = align.or(word.parse().ok()),
                Some("extern") => external = true,
                Some(ty_name) => ty = ty.or(Ty::parse(ty_name)),
                None => name = Some(word),
            }
            before = word;
        }
        let mut count = 1;
        for extent in extents.split('[').filter(|_| text.contains('[')) {
            let extent = extent.trim().trim_end_matches(']').trim();
            count *= if extent.is_empty() { 0 } else { extent.parse::<usize>().ok()? };
        }
        let ty = ty?;
        let size = ty.bytes() * count;
        Some(Self { name: name?.to_owned(), ty, size, align: align.unwrap_or(ty.bytes()), external })
    }
}

/// The variables that a body declares in `space`.
fn variables<'a>(body: &'a str, space: &'a str) -> impl Iterator<Item = Variable> + 'a {
    let lines = body.lines().map(str::trim).filter(move |line| line.starts_with(space));
    lines.filter_map(|line| Variable::parse(line.trim_end_matches(';')))
}

fn initialise(variable: Variable, text: &str) -> Result<Global, Fault> {
    let Variable { name, ty, size, align, .. } = variable;
    let mut global = Global { name, size, align, init: vec![0; size], addresses: Vec::new() };
    let items = text.trim_matches(['{', '}', ' ', '\n']).split(',').map(str::trim);
    for (index, item) in items.filter(|item| !item.is_empty()).enumerate() {
        let at = index * ty.bytes();
        if let Some(bits) = ty.literal(item) {
            let place = global.init.get_mut(at..at + ty.bytes()).ok_or_else(|| bad(text))?;
            place.copy_from_slice(&bits.to_le_bytes()[..ty.bytes()]);
        } else {
            let (symbol, plus) = item.split_once('+').unwrap_or((item, "0"));
            let symbol = symbol.trim().trim_start_matches("generic(").trim_end_matches(')');
            let distance = plus.trim().parse().map_err(|_| bad(item))?;
            if ty.bytes() != 8 || !symbol.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                return Err(bad(format!("initialiser {item} of {}", global.name)));
            }
            global.addresses.push((at, symbol.to_owned(), distance));
        }
    }
    Ok(global)
}

fn thread_limit(directives: &str) -> Option<u32> {
    let after = directives.split_once(".maxntid").or_else(|| directives.split_once(".reqntid"))?.1;
    let numbers = after.split('.').next()?.split(',').map(|number| number.trim().parse::<u32>());
    numbers.map_while(Result::ok).reduce(|a, b| a * b)
}

fn closing_brace(text: &str, open: usize) -> Result<usize, Fault> {
    let mut depth = 0;
    for (at, c) in text[open..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Ok(open + at);
        }
    }
    Err(bad("a brace is not closed"))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
}
