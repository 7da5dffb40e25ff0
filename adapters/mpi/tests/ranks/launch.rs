//! Starts this program under `mpirun`, once for each number of ranks, and ends it where it takes
//! too long: ranks that wait for one another fail a test, and do not hang it.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Names the property that a rank is to hold.
pub const CASE: &str = "ALA_MPI_CASE";

/// All ranks of one run at a time have the cores.
static TURN: Mutex<()> = Mutex::new(());

/// Holds a property on so many ranks; the error is what they have said.
pub fn hold(case: &str, ranks: usize, limit: Duration) -> Result<(), String> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new("mpirun");
    command.arg("-n").arg(ranks.to_string()).arg(program);
    command.args([
        "--exact",
        "worker",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env(CASE, case).env("RAYON_NUM_THREADS", "1");
    // More ranks than cores: Open MPI 4 and 5. Other MPI libraries allow it as they are.
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1");
    command.env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    // `mpirun` ends all ranks itself, should this program be stopped meanwhile.
    command.env("MPIEXEC_TIMEOUT", (limit.as_secs() + 10).to_string());
    if is_root() {
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1");
        command.env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun starts");
    let said = [
        read(child.stdout.take().expect("it is a pipe")),
        read(child.stderr.take().expect("it is a pipe")),
    ];
    let status = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break Some(status);
        }
        if started.elapsed() > limit {
            stop(&mut child);
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let said = said.map(|text| text.join().expect("it was read")).concat();
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{case} on {ranks} ranks: {status}\n{said}")),
        None => Err(format!(
            "{case} on {ranks} ranks: still running after {limit:?}\n{said}"
        )),
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

fn read(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is shown.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Asks `mpirun` to end, so that it ends its ranks, and makes it end after a while.
fn stop(child: &mut Child) {
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(5) {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}
