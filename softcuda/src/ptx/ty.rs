//! PTX types and literals.

macro_rules! types {
    ($($name:ident = $text:literal of $bytes:literal,)+) => {
        /// A PTX type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Ty { $($name),+ }

        impl Ty {
            pub(crate) fn parse(name: &str) -> Option<Self> {
                match name { $($text => Some(Ty::$name),)+ _ => None }
            }

            pub(crate) fn bytes(self) -> usize {
                match self { $(Ty::$name => $bytes),+ }
            }
        }
    };
}

#[rustfmt::skip]
types! {
    Pred = "pred" of 1, U8 = "u8" of 1, S8 = "s8" of 1, B8 = "b8" of 1,
    U16 = "u16" of 2, S16 = "s16" of 2, B16 = "b16" of 2, F16 = "f16" of 2, Bf16 = "bf16" of 2,
    U32 = "u32" of 4, S32 = "s32" of 4, B32 = "b32" of 4, F32 = "f32" of 4, F16x2 = "f16x2" of 4, Bf16x2 = "bf16x2" of 4,
    U64 = "u64" of 8, S64 = "s64" of 8, B64 = "b64" of 8, F64 = "f64" of 8,
}

impl Ty {
    pub(crate) fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub(crate) fn integer(self) -> bool {
        !matches!(self, Ty::Pred | Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 | Ty::F32 | Ty::F64)
    }

    /// All ones over the type's bits.
    pub(crate) fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    /// The bits of a literal operand of this type. Integers are sign-extended; consumers take the
    /// bits they need.
    pub(crate) fn literal(self, text: &str) -> Option<u64> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let float = match (digits.get(..2), digits.len()) {
            (Some("0f" | "0F"), 10) => Some(f32::from_bits(u32::from_str_radix(&digits[2..], 16).ok()?).into()),
            (Some("0d" | "0D"), 18) => Some(f64::from_bits(u64::from_str_radix(&digits[2..], 16).ok()?)),
            _ if digits.contains('.') => Some(digits.parse::<f64>().ok()?),
            _ => None,
        };
        if let Some(float) = float.map(|float| if negative { -float } else { float }) {
            return Some(if self == Ty::F64 { float.to_bits() } else { (float as f32).to_bits().into() });
        }
        let digits = digits.trim_end_matches('U');
        let value = match digits.get(..2) {
            Some("0x" | "0X") => u64::from_str_radix(&digits[2..], 16),
            Some("0b" | "0B") => u64::from_str_radix(&digits[2..], 2),
            Some(_) if digits.starts_with('0') => u64::from_str_radix(digits, 8),
            _ => digits.parse(),
        };
        value.ok().map(|value: u64| if negative { value.wrapping_neg() } else { value })
    }
}
