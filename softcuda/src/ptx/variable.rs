//! Declarations of variables, and what module variables hold at first.
use super::ty::Ty;
use crate::fault::Fault;

/// As allocations are aligned: a variable that asked for more would not get it.
const MOST_ALIGN: usize = 256;
/// More than any device has; a sum of as many sizes as a text can hold stays a number.
const MOST_BYTES: usize = 1 << 40;

/// A module-scope variable in global memory.
#[derive(Clone, Debug)]
pub struct Global {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// What its first bytes hold; all behind them are zero.
    pub init: Vec<u8>,
}

/// A declared variable of any space.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    ty: Ty,
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) external: bool,
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
        for word in declaration.split_whitespace() {
            match word.strip_prefix('.') {
                _ if before == ".align" => align = align.or(Some(word.parse().ok()?)),
                Some("extern") => external = true,
                Some(ty_name) => ty = ty.or(Ty::parse(ty_name)),
                None => name = Some(word),
            }
            before = word;
        }
        let mut count: usize = 1;
        for extent in extents.split('[').filter(|_| text.contains('[')) {
            let extent = extent.trim().trim_end_matches(']').trim();
            count = count.checked_mul(if extent.is_empty() { 0 } else { extent.parse().ok()? })?;
        }
        let ty = ty?;
        let size = ty.bytes().checked_mul(count).filter(|&size| size <= MOST_BYTES)?;
        let align = align.unwrap_or(ty.bytes());
        let aligns = align.is_power_of_two() && align <= MOST_ALIGN;
        aligns.then_some(Self { name: name?.to_owned(), ty, size, align, external })
    }

    /// The module variable that begins with the numbers of `{1, 2}`, or 0.
    pub(super) fn initialised(self, text: &str) -> Result<Global, Fault> {
        let Variable { name, ty, size, align, .. } = self;
        let mut init = Vec::new();
        let items = text.trim_matches(['{', '}', ' ', '\n']).split(',').map(str::trim);
        for item in items.filter(|item| !item.is_empty()) {
            let bad = || Fault::bad_module(format!("initialiser {item} of {name}"));
            if init.len() + ty.bytes() > size {
                return Err(bad());
            }
            init.extend(&ty.literal(item).ok_or_else(bad)?.to_le_bytes()[..ty.bytes()]);
        }
        Ok(Global { name, size, align, init })
    }
}
