//! The loss on ranks that are processes of their own, held against the loss that is not cut and
//! against the reference.
//!
//! Every test starts this program anew under `mpirun`; each rank then runs [`worker`].

mod agree;
mod allocations;
mod cut;
mod data_parallel;
mod edges;
mod errors;
mod launch;
// The objectives and the accuracy bounds that all paths are held to, in one place.
#[path = "../../../../tests/problem/mod.rs"]
mod problem;
mod steps;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

/// Each property: what holds it, and on how many ranks.
macro_rules! properties {
    ($($module:ident :: $name:ident on $ranks:expr;)*) => {
        $(
            #[test]
            fn $name() {
                for ranks in $ranks {
                    let held = launch::hold(stringify!($name), ranks, Duration::from_secs(60));
                    if let Err(said) = held {
                        panic!("{said}");
                    }
                }
            }
        )*

        fn property(name: &str) -> fn(&SimpleCommunicator) {
            match name {
                $(stringify!($name) => $module::$name,)*
                "waits_for_nobody" => waits_for_nobody,
                other => panic!("no property {other}"),
            }
        }
    };
}

properties! {
    values::every_objective_is_that_of_the_whole on [1, 2, 3, 4, 7];
    values::narrow_types_are_within_their_bounds on [1, 3, 7];
    values::every_option_is_that_of_the_whole on [2, 4];
    values::mixed_rows_are_those_of_the_definition on [1, 3];
    edges::edges_are_those_of_the_whole on [1, 2, 3, 4, 7];
    edges::nothing_to_count_is_zero on [1, 3];
    errors::what_is_wrong_on_one_rank_is_told_on_all on [2, 3];
    errors::different_inputs_are_told_on_all on [2, 4];
    errors::a_wrong_output_is_told_on_its_rank_alone on [2, 3];
    errors::too_long_a_message_is_told_on_all on [2];
    agree::ranks_that_disagree_have_no_loss on [2, 3];
    agree::groups_of_ranks_have_losses_of_their_own on [4, 7];
    steps::overlapped_steps_are_the_same_to_the_bit on [1, 2, 4];
    steps::steps_repeat_to_the_bit_on_all_ranks on [2, 7];
    steps::a_step_is_one_gather on [1, 3];
    steps::a_step_allocates_nothing on [2];
    steps::work_that_panics_leaves_the_ranks_together on [2];
    data_parallel::parts_of_a_batch_have_the_gradient_of_the_whole on [1, 3, 4];
    data_parallel::divisors_that_are_wrong_are_told_on_all on [2, 3];
    data_parallel::counts_are_added_up on [1, 3, 4];
    data_parallel::counts_that_do_not_fit_are_told_on_all on [2, 3];
}

#[test]
fn ranks_that_wait_for_ever_are_ended() {
    let held = launch::hold("waits_for_nobody", 2, Duration::from_secs(3));
    let said = held.expect_err("rank 1 waits for rank 0");
    assert!(said.contains("still running"), "{said}");
}

fn waits_for_nobody(world: &SimpleCommunicator) {
    use mpi::traits::CommunicatorCollectives;
    match world.rank() {
        0 => std::thread::sleep(Duration::from_secs(600)),
        _ => world.barrier(),
    }
}

#[test]
fn a_rank_that_fails_fails_the_test() {
    let held = launch::hold("no such property", 2, Duration::from_secs(60));
    let said = held.expect_err("there is none");
    assert!(said.contains("no property no such property"), "{said}");
}

#[test]
#[ignore = "what each rank runs; the tests start it"]
fn worker() {
    let Ok(name) = std::env::var(launch::CASE) else {
        return;
    };
    let universe = mpi::initialize().expect("the first to do so");
    let world = universe.world();
    let held = catch_unwind(AssertUnwindSafe(|| property(&name)(&world)));
    if held.is_err() {
        // The panic has been printed. The others might wait for this rank.
        eprintln!("on rank {} of {}", world.rank(), world.size());
        world.abort(1);
    }
}
