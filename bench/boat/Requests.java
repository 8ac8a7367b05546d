import java.util.Arrays;
import java.util.concurrent.locks.LockSupport;

/**
 * A service in small: requests come at fixed moments, allocate garbage, keep some of it for a while.
 *
 * <p>Arguments: requests a second, seconds to warm up, seconds to measure. Latency counts from the
 * intended moment, so that what comes during a pause waits for its end. Prints requests, busy
 * nanoseconds, and the 50th and 99th percentile and the maximum of latency in nanoseconds.
 */
public final class Requests {
    private static final int GARBAGE = 300; // nodes of about 100 bytes that die with the request
    private static final int KEPT = 60; // nodes that live for SESSIONS requests more
    private static final int SESSIONS = 400;
    private static final int FOREVER = 250_000; // nodes: about 25 MiB that never die

    private static final class Node {
        final Node next;
        final byte[] load = new byte[64];

        Node(Node next, int salt) {
            this.next = next;
            load[salt & 63] = (byte) salt;
        }
    }

    private static Node chain(int nodes, int salt) {
        Node head = null;
        for (int k = 0; k < nodes; k++) {
            head = new Node(head, salt + k);
        }
        return head;
    }

    private static int sum(Node head) {
        int total = 0;
        for (Node node = head; node != null; node = node.next) {
            total += node.load[7];
        }
        return total;
    }

    public static void main(String[] args) {
        final double rate = Double.parseDouble(args[0]);
        final int warmup = (int) (rate * Double.parseDouble(args[1]));
        final int counted = (int) (rate * Double.parseDouble(args[2]));
        final Node base = chain(FOREVER, 1);
        final Node[] sessions = new Node[SESSIONS];
        final long[] latency = new long[counted];
        final double gap = 1e9 / rate;
        long busy = 0;
        int check = 0;
        final long start = System.nanoTime() + 1_000_000L;
        for (int k = 0; k < warmup + counted; k++) {
            final long intended = start + (long) (k * gap);
            for (long left; (left = intended - System.nanoTime()) > 0; ) {
                if (left > 200_000L) {
                    LockSupport.parkNanos(left - 150_000L);
                } else {
                    Thread.onSpinWait();
                }
            }
            final long began = System.nanoTime();
            check += sum(chain(GARBAGE, k));
            sessions[k % SESSIONS] = chain(KEPT, k);
            final long ended = System.nanoTime();
            if (k >= warmup) {
                latency[k - warmup] = ended - intended;
                busy += ended - began;
            }
        }
        Arrays.sort(latency);
        check += sum(base) + sum(sessions[check & 255]);
        System.out.println(counted + " " + busy + " " + latency[counted / 2] + " "
            + latency[(int) (counted * 0.99)] + " " + latency[counted - 1] + " " + check);
    }
}
