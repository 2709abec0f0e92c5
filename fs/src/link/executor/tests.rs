use super::*;
use std::sync::mpsc;
use std::thread::ThreadId;
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(10);

fn executor() -> Executor {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    Executor::new(Arc::new(Socket::new(socket).unwrap())).unwrap()
}

/// A task that reports on which thread it runs, once at the start and once for each notice.
fn reporter(executor: &Executor, place: Place) -> (Arc<Notify>, mpsc::Receiver<ThreadId>) {
    let notice = Arc::new(Notify::new());
    let (report, reports) = mpsc::channel();
    let noticed = notice.clone();
    executor.spawn(place, async move {
        while report.send(std::thread::current().id()).is_ok() {
            noticed.notified().await;
        }
    });
    (notice, reports)
}

#[test]
fn what_a_guest_wakes_runs_on_its_thread_before_it_leaves() {
    let executor = executor();
    let (notice, reports) = reporter(&executor, Place::Anywhere);
    executor.start().unwrap();
    let on_loop = reports.recv_timeout(LONG).unwrap();
    for _ in 0..100 {
        executor.drive(|| notice.notify_one());
        // The loop may still be about to give the task up; then it runs there once more.
        let ran_on = reports
            .try_recv()
            .or_else(|_| reports.recv_timeout(LONG).map_err(|_| mpsc::TryRecvError::Empty));
        assert!([on_loop, std::thread::current().id()].contains(&ran_on.unwrap()));
    }
    executor.drive(|| notice.notify_one());
    assert_eq!(reports.try_recv(), Ok(std::thread::current().id()));
}

#[test]
fn what_others_wake_runs_on_the_loop() {
    let executor = executor();
    let (notice, reports) = reporter(&executor, Place::Anywhere);
    executor.start().unwrap();
    let on_loop = reports.recv_timeout(LONG).unwrap();
    for _ in 0..100 {
        notice.notify_one();
        assert_eq!(reports.recv_timeout(LONG), Ok(on_loop));
    }
}

#[test]
fn a_reader_runs_on_the_loop_whoever_wakes_it() {
    let executor = executor();
    let (notice, reports) = reporter(&executor, Place::Loop);
    executor.start().unwrap();
    let on_loop = reports.recv_timeout(LONG).unwrap();
    assert_ne!(on_loop, std::thread::current().id());
    for _ in 0..100 {
        executor.drive(|| notice.notify_one());
        assert_eq!(reports.recv_timeout(LONG), Ok(on_loop));
    }
}

#[test]
fn a_guest_that_is_woken_without_end_leaves_the_rest_to_the_loop() {
    let executor = executor();
    let (stop, stopped) = mpsc::channel::<()>();
    let (entered, enters) = mpsc::channel();
    executor.spawn(Place::Anywhere, async move {
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            entered.send(std::thread::current().id()).unwrap();
            tokio::task::yield_now().await;
        }
    });
    executor.drive(|| ());
    executor.start().unwrap();
    enters.recv_timeout(LONG).unwrap();
    executor.drive(|| ());
    stop.send(()).unwrap();
    while enters.recv_timeout(LONG).is_ok() {}
}

#[test]
fn a_limit_ends_what_takes_longer() {
    let executor = executor();
    let (done, result) = mpsc::channel();
    let timer = executor.clone();
    executor.spawn(Place::Anywhere, async move {
        let never = timer
            .within(Duration::from_millis(20), std::future::pending::<()>())
            .await;
        let at_once = timer.within(LONG, std::future::ready(7)).await;
        done.send((never, at_once)).unwrap();
    });
    executor.start().unwrap();
    assert_eq!(result.recv_timeout(LONG).unwrap(), (None, Some(7)));
}

#[test]
fn a_task_that_panics_ends_alone() {
    let executor = executor();
    let (_notice, reports) = reporter(&executor, Place::Anywhere);
    executor.spawn(Place::Loop, async { panic!("on purpose") });
    let (_other, others) = reporter(&executor, Place::Loop);
    executor.start().unwrap();
    reports.recv_timeout(LONG).unwrap();
    others.recv_timeout(LONG).unwrap();
}

#[test]
fn a_reader_that_is_held_up_holds_up_nobody_else() {
    let executor = executor();
    let (done, results) = mpsc::channel();
    // Each waits, on its thread, for the one that is spawned after it.
    let mut awaited = None;
    for index in (0..3).rev() {
        let (arrive, arrived) = mpsc::channel::<()>();
        let done = done.clone();
        let waits_for: Option<mpsc::Receiver<()>> = awaited.replace(arrived);
        let timer = executor.clone();
        executor.spawn(Place::Loop, async move {
            // The innermost needs timers as well.
            timer
                .within(Duration::from_millis(1), std::future::pending::<()>())
                .await;
            if let Some(waits_for) = waits_for {
                waits_for.recv_timeout(LONG).unwrap();
            }
            arrive.send(()).ok();
            done.send(index).unwrap();
        });
    }
    drop(awaited);
    executor.start().unwrap();
    let mut order: Vec<i32> = (0..3).map(|_| results.recv_timeout(LONG).unwrap()).collect();
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2]);
}

#[test]
fn the_threads_end_with_the_last_task() {
    let executor = executor();
    executor.spawn(Place::Loop, async {});
    let shared = Arc::downgrade(&executor.shared);
    executor.start().unwrap();
    drop(executor);
    let start = Instant::now();
    while shared.upgrade().is_some() {
        assert!(start.elapsed() < LONG, "a thread still has the executor");
        std::thread::yield_now();
    }
}
