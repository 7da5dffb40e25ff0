//! The parts of an instruction's name.
use super::ty::Ty;

/// `fma.rn.ftz.f32` taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Opcode<'a> {
    pub(crate) base: &'a str,
    pub(crate) flags: Vec<&'a str>,
    pub(crate) types: Vec<Ty>,
}

impl<'a> Opcode<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let mut parts = text.split('.');
        let base = parts.next().unwrap_or_default();
        let mut opcode = Self { base, flags: Vec::new(), types: Vec::new() };
        for part in parts {
            match Ty::parse(part) {
                Some(ty) => opcode.types.push(ty),
                None => opcode.flags.push(part),
            }
        }
        opcode
    }

    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// The type that the instruction works on.
    pub(crate) fn ty(&self) -> Option<Ty> {
        self.types.first().copied()
    }

    /// Whether every flag is one of these, so that none is passed over.
    pub(crate) fn only(&self, known: &str) -> bool {
        self.flags.iter().all(|flag| known.split(' ').any(|known| known == *flag))
    }
}
