//! cuRAND's host interface: uniform and normal numbers of a seed. They are other numbers than
//! NVIDIA's library gives for that seed.
use crate::driver::{Context, Refused, Stream};
use crate::table::Table;

/// A `curandStatus_t`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The numbers are on their way, in the stream.
    Success = 0,
    /// No such generator.
    NotInitialized = 101,
    /// A kind of generator that this library does not have.
    TypeError = 103,
    /// Normal numbers come in pairs.
    LengthNotMultiple = 105,
    /// The driver refused the copy, or the stream captures: a graph would copy the same numbers
    /// again from memory that is gone.
    LaunchFailure = 201,
    /// There is no context.
    InitializationFailed = 203,
}

impl From<Refused> for Status {
    fn from(_: Refused) -> Self {
        Self::LaunchFailure
    }
}

/// A `curandGenerator_t`: SplitMix64, whose state counts up.
struct Generator {
    context: Context,
    stream: Stream,
    seed: u64,
    /// Numbers that were drawn.
    drawn: u64,
}

static GENERATORS: Table<Generator> = Table::new();

impl Generator {
    /// 64 random bits.
    fn bits(&mut self) -> u64 {
        self.drawn += 1;
        let mut bits = self.seed.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// In (0, 1], a multiple of 2^-24.
    fn uniform_f32(&mut self) -> f32 {
        ((self.bits() >> 40) + 1) as f32 * 2f32.powi(-24)
    }

    /// In (0, 1], a multiple of 2^-53.
    fn uniform_f64(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 * 2f64.powi(-53)
    }

    /// Two independent standard normal numbers, by Box and Muller.
    fn normal_pair(&mut self) -> [f64; 2] {
        let (radius, angle) = ((-2.0 * self.uniform_f64().ln()).sqrt(), std::f64::consts::TAU * self.uniform_f64());
        [radius * angle.cos(), radius * angle.sin()]
    }

    /// # Safety
    ///
    /// The device's memory at `to` has room for the numbers.
    unsafe fn send<T: Copy>(&self, to: usize, numbers: &[T]) -> Result<(), Status> {
        self.context.enter()?;
        if self.stream.captures()? {
            return Err(Status::LaunchFailure);
        }
        // SAFETY: as the caller says.
        unsafe { self.stream.upload(to, numbers) }?;
        Ok(())
    }
}

fn with(generator: usize, body: impl FnOnce(&mut Generator) -> Result<(), Status>) -> Status {
    let result = GENERATORS.with(generator, body).unwrap_or(Err(Status::NotInitialized));
    result.err().unwrap_or(Status::Success)
}

/// Makes a generator of the default kind for the thread's context.
#[unsafe(no_mangle)]
pub extern "C" fn curandCreateGenerator(generator: Option<&mut usize>, kind: u32) -> Status {
    // CURAND_RNG_PSEUDO_DEFAULT
    if kind != 100 {
        return Status::TypeError;
    }
    let (Some(place), Ok(context)) = (generator, Context::current()) else {
        return Status::InitializationFailed;
    };
    *place = GENERATORS.insert(Generator { context, stream: Stream::DEFAULT, seed: 0, drawn: 0 });
    Status::Success
}

/// Ends a generator.
#[unsafe(no_mangle)]
pub extern "C" fn curandDestroyGenerator(generator: usize) -> Status {
    GENERATORS.remove(generator).map_or(Status::NotInitialized, |_| Status::Success)
}

/// The stream of all later calls.
#[unsafe(no_mangle)]
pub extern "C" fn curandSetStream(generator: usize, stream: usize) -> Status {
    with(generator, |generator| {
        generator.stream = Stream::new(stream);
        Ok(())
    })
}

/// Begins anew with a seed.
#[unsafe(no_mangle)]
pub extern "C" fn curandSetPseudoRandomGeneratorSeed(generator: usize, seed: u64) -> Status {
    with(generator, |generator| {
        (generator.seed, generator.drawn) = (seed, 0);
        Ok(())
    })
}

/// Begins anew behind so many numbers.
#[unsafe(no_mangle)]
pub extern "C" fn curandSetGeneratorOffset(generator: usize, offset: u64) -> Status {
    with(generator, |generator| {
        generator.drawn = offset;
        Ok(())
    })
}

macro_rules! generate {
    ($($name:ident of $ty:ty: |$generator:ident $(, $parameter:ident)*| $drawn:expr, of $unit:literal;)*) => {$(
        /// Writes `count` numbers to device memory.
        ///
        /// # Safety
        ///
        /// The device's memory at `to` has room for them.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(generator: usize, to: usize, count: usize $(, $parameter: $ty)*) -> Status {
            with(generator, |$generator| {
                let draws = count / $unit;
                if draws * $unit != count {
                    return Err(Status::LengthNotMultiple);
                }
                let numbers: Vec<$ty> = (0..draws).flat_map(|_| $drawn).collect();
                // SAFETY: as the caller says.
                unsafe { $generator.send(to, &numbers) }
            })
        }
    )*};
}
generate! {
    curandGenerateUniform of f32: |generator| [generator.uniform_f32()], of 1;
    curandGenerateUniformDouble of f64: |generator| [generator.uniform_f64()], of 1;
    curandGenerateNormal of f32: |generator, mean, deviation|
        generator.normal_pair().map(|x| mean + deviation * x as f32), of 2;
    curandGenerateNormalDouble of f64: |generator, mean, deviation|
        generator.normal_pair().map(|x| mean + deviation * x), of 2;
}
