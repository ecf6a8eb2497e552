import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;

/** Sends an image with Java's own client and its defaults: java Upload.java URL FILE. */
public class Upload {
    public static void main(String[] arguments) throws Exception {
        byte[] image = Files.readAllBytes(Path.of(arguments[1]));
        BodyPublisher[] bodies = {
            BodyPublishers.ofByteArray(image),
            BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(image)),
            BodyPublishers.ofFile(Path.of(arguments[1])),
        };
        HttpClient client = HttpClient.newHttpClient();
        for (BodyPublisher body : bodies) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .timeout(Duration.ofSeconds(60)).POST(body).build();
            var answer = client.send(request, BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body().contains("predictions"));
        }
    }
}
